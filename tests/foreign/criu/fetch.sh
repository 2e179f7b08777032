#!/usr/bin/env bash
# fetch.sh DIRECTORY: CRIU's source from Debian (GPL: it stays out of this repository), its test programs and
# CRIU itself built in DIRECTORY/criu. Safe to run twice.
set -euo pipefail
directory=$1
[ ! -e "$directory/criu/.built" ] || exit 0
rm -rf "$directory/criu" "$directory/apt"
mkdir -p "$directory/apt/lists/partial" "$directory/apt/cache/archives/partial"
cd "$directory"

# Debian's newest, whatever release this machine is.
key=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -m1 '/debian/*$')
echo "deb-src [signed-by=$key] $mirror sid main" >apt/sources.list
cat >apt/apt.conf <<EOF
Dir::Etc::sourcelist "$PWD/apt/sources.list";
Dir::Etc::sourceparts "/nonexistent";
Dir::State::lists "$PWD/apt/lists";
Dir::Cache "$PWD/apt/cache";
APT::Sandbox::User "root";
EOF
export APT_CONFIG=$PWD/apt/apt.conf
apt-get update -qq
apt-get source -qq --tar-only criu
mkdir criu
tar --extract --strip-components=1 --directory criu --file "$(ls criu_*.orig.tar.*z | tail -1)"

make -C criu -s -j"$(nproc)" criu >build.log 2>&1 || { tail -30 build.log >&2; exit 1; }
make -C criu -s lib >>build.log 2>&1  # of Python, for programs' hooks
for group in lib static transition; do  # some want what a distribution may lack; run.py says which
  make -C "criu/test/zdtm/$group" -s -k >>build.log 2>&1 || true
done
touch criu/.built
