#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/base/fd.h"

namespace snapgdb {

// All files as they are, for processes whose writes shall go elsewhere. Every directory that has no
// mount below it is an overlay (Documentation/filesystems/overlayfs.rst) with its upper layer in
// memory; those that lead to mounts are made anew. /proc is that of the process's pid namespace,
// /dev has the harmless devices and those asked for, /sys cannot be written to. What was written is
// gone with the mount namespace, unless it is saved.
class Sandbox {
 public:
  struct Options {
    std::vector<std::string> devices = {};   // further files of /dev
    std::vector<std::string> replaced = {};  // files for which others shall stand
    // To be written to, and below some that belong to users whom the user namespace does not know:
    // to write there, an overlay above them would have to copy that owner (EOVERFLOW).
    std::vector<std::string> directories = {};
  };
  // Precondition: the process has a mount namespace of its own, and CAP_SYS_ADMIN in the user
  // namespace that owns it (overlays: Linux 5.11). Throws SystemError.
  explicit Sandbox(const Options& options);

  // Mounts /proc at `path`, as the calling process's pid namespace has it; the kernel's settings
  // there cannot be written to. Throws SystemError.
  static void mount_proc(const std::string& path);

  // Of a /proc that is mounted there: those settings.
  static void protect_settings(const std::string& path);

  // What is otherwise than outside, line by line.
  const std::vector<std::string>& notes() const { return notes_; }

  // What stands for Options::replaced[i]: empty at first. Opened for reading and writing.
  Fd replacement(size_t i) const;
  // Whether it stands where it should: rights may forbid that, where there was no such file.
  bool is_in_place(size_t i) const { return in_place_[i]; }

  // Its descriptor gets a number from `lowest` on.
  void move_descriptor(int lowest);

  // Copies what was written to `directory`, which is made anew: changed files by their paths, and
  // in a file "removed" the paths that are gone. Returns how many files that are; if none, there is
  // no directory. `parent`: opened before there was a sandbox. Throws
  // std::filesystem::filesystem_error.
  size_t save(const Fd& parent, const std::string& directory) const;

 private:
  void find_cuts(std::span<const std::string> directories);
  void place(const std::string& path);
  bool overlay(const std::string& path);
  void imitate(const std::string& path);
  void imitate_entry(const std::string& path);
  void imitate_file(const std::string& path);
  void show_unchanging(const std::string& path);
  void place_devices(std::span<const std::string> devices);
  void leave_session_keyring();
  void note_unwritable_files();
  void place_replacements(std::span<const std::string> paths);
  void enter();

  Fd scratch_;  // K/upper: what changed in layers_[K]; files/I: replacements; view: the new root
  std::vector<std::string> cuts_;  // directories that cannot be part of an overlay above them
  std::vector<std::string> layers_;
  std::vector<std::string> skeleton_;  // directories made anew, and what was in them
  // With the times of those files that are copies: they differ once a copy was written to.
  std::map<std::string, std::optional<std::filesystem::file_time_type>> imitated_;
  std::set<std::string> replaced_;
  std::vector<bool> in_place_;
  std::vector<std::string> unwritable_files_;  // but for it, they could be
  std::vector<std::string> notes_;
};

}  // namespace snapgdb
