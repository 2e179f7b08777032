#pragma once

#include <functional>
#include <string>

// What the parts of `spaces` share. Each sets something up and returns what checks it at the end.
using Check = std::function<void()>;

Check own_mounts(bool has_own_root, bool has_devices);
Check own_network();

std::string read_text(const std::string& path);
void write_text(const std::string& path, const std::string& text);
void expect_text(const char* what, const std::string& seen, const std::string& expected);
std::string scratch();  // $TMPDIR, or /tmp
