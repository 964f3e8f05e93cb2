# SPDX-License-Identifier: Apache-2.0
"""Metadata in, running model out: the agent of one device. Its supervisor never loads a model; its worker does."""
