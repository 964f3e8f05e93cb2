/* SPDX-License-Identifier: Apache-2.0
 *
 * The two functions of string.h that kernels call, which every C library and start-up code has; freestanding compilers
 * may lack the header.
 */
#ifndef EDGEFLEET_MEMORY_H
#define EDGEFLEET_MEMORY_H

#include <stddef.h>

extern void *memcpy(void *to, const void *from, size_t bytes);
extern void *memset(void *to, int value, size_t bytes);

#endif
