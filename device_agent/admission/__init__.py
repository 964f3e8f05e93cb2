# SPDX-License-Identifier: Apache-2.0
"""Admission: what a bundle must show before it may run here, checked in a child process of its own."""
