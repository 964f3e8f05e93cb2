# SPDX-License-Identifier: Apache-2.0
"""Cutting the power in the middle of an update, at every place where it can be cut, and asking what is left.

A :class:`~fleet_emulation.power_loss.subject.Subject` is what is cut off: an update that runs in a child process, and
an oracle that is asked about the remains. The rigs take any subject:

====================  ==================================================================================
``kill_sweep``        ends the process at each system call that changes a file
``lost_writes``       records one update, and builds every disk that a power cut may leave of it
``disk_images``       lets one update run on a real ext4, copies the disk at each call, and mounts each copy
``damaged_pages``     changes each page of each file of a device's memory
``agent``             the subject that is tried here: the real agent in one process, without a network
====================  ==================================================================================
"""
