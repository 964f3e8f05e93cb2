# SPDX-License-Identifier: Apache-2.0
"""The process that talks to the server's repositories: what hostile metadata breaks, it breaks alone."""
