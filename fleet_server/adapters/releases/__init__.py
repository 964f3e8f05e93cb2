# SPDX-License-Identifier: Apache-2.0
"""Releases from upload to publication: the image repository and the approvals."""
