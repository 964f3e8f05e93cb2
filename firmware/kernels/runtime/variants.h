/* SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGEFLEET_VARIANTS_H
#define EDGEFLEET_VARIANTS_H

#include <edgefleet/model.h>

/* The kernel that a program has for a variant's id, or NULL. */
static inline ef_kernel ef_find_kernel(const ef_program *program, uint32_t id)
{
    for (uint32_t i = 0; i < program->variant_count; i++)
        if (program->variants[i].id == id) return program->variants[i].kernel;
    return 0;
}

#endif
