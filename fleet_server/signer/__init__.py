# SPDX-License-Identifier: Apache-2.0
"""The process that holds the online keys and checks each request by itself."""
