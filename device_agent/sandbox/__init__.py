# SPDX-License-Identifier: Apache-2.0
"""What child processes give up before they touch anything of a bundle: other files, writing, sockets, new programs."""
