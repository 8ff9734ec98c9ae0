#!/bin/sh
# The installation steps of the image; the Dockerfile and a test run them. Run in a folder with the sources.
#
#   install.sh requirements VENV     a virtual environment with the pinned requirements
#   install.sh package VENV          the package itself into it
set -eu
what=$1
venv=$2

case $what in
requirements)
    python3 -m venv "$venv"
    # names and bounds from pyproject.toml, exact versions from constraints.txt
    python3 -c 'import tomllib; print("\n".join(tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]))' \
        >"$venv/requirements.txt"
    if [ -n "${TORCH_INDEX:-}" ]; then
        "$venv/bin/pip" install --index-url "$TORCH_INDEX" --constraint constraints.txt torch torchvision
    fi
    "$venv/bin/pip" install --constraint constraints.txt --requirement "$venv/requirements.txt" "setuptools>=77"
    ;;
package)
    "$venv/bin/pip" install --no-deps --no-build-isolation .
    "$venv/bin/pip" check
    "$venv/bin/pcace" --version
    ;;
*)
    echo "install.sh: $what is neither requirements nor package" >&2
    exit 2
    ;;
esac
