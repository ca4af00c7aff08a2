#!/bin/sh
# Installs what Python packages cannot bring: PortAudio (microphone, loudspeaker) and, on Debian, Python's venv.
# Where it may not install, it says in one line how to; everything but microphone and loudspeaker works without.
# Run: sh scripts/install_system_packages.sh python3
set -u
python=${1:-python3}

has_portaudio() {
  case "$(uname -s)" in Linux) ;; *) return 0 ;; esac # wheels for macOS and Windows carry it
  "$python" -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("portaudio") is None)'
}
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

wanted=""
if command -v apt-get >/dev/null; then
  has_portaudio || wanted="libportaudio2"
  has_venv || wanted="$wanted python3-venv"
  install="apt-get install -y -qq --no-install-recommends"
elif command -v dnf >/dev/null; then
  has_portaudio || wanted="portaudio"
  install="dnf install -y -q"
elif command -v zypper >/dev/null; then
  has_portaudio || wanted="libportaudio2"
  install="zypper --non-interactive --quiet install"
elif command -v pacman >/dev/null; then
  has_portaudio || wanted="portaudio"
  install="pacman -S --noconfirm --needed"
elif command -v apk >/dev/null; then
  has_portaudio || wanted="portaudio"
  install="apk add --quiet"
else
  has_portaudio || echo "Notice: PortAudio is missing; install it with your system's package manager to use a microphone." >&2
  exit 0
fi
wanted=${wanted# }
[ -n "$wanted" ] || exit 0

if [ "$(id -u)" = 0 ]; then
  sudo=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  sudo="sudo"
else
  echo "Notice: for microphone and loudspeaker run: sudo $install $wanted" >&2
  exit 0
fi
echo "Installing $wanted with the system's package manager ..."
export DEBIAN_FRONTEND=noninteractive
{ [ "${install%% *}" != apt-get ] || $sudo apt-get update -qq; } >/dev/null 2>&1 &&
  $sudo $install $wanted >/dev/null 2>&1 ||
  echo "Notice: that failed; for microphone and loudspeaker run by hand: ${sudo:+sudo }$install $wanted" >&2
