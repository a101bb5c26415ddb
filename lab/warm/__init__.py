"""A process that has imported torch and lab, and does each command by a fork of itself. Linux only; needs no torch but
in `server`."""
