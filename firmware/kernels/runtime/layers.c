/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers read from the blob: what runs a model whose layers were not known when the firmware was built.
 */
#include <edgefleet/blob.h>
#include <edgefleet/model.h>

#include "variants.h"

static ef_status run_from(const ef_program *program, uint8_t *arena, uint32_t first, uint32_t end, ef_yield yield,
                          void *user)
{
    const uint8_t *blob = program->blob;
    const ef_blob_header *header = (const void *)blob;
    const ef_variant_record *variants = (const void *)(blob + header->variants_at);
    const ef_layer_record *layer = (const ef_layer_record *)(const void *)(blob + header->layers_at) + first;
    for (uint32_t i = first; i < end; i++, layer++) {
        ef_find_kernel(program, variants[layer->variant].id)(blob + layer->layer_at, arena);
        if (yield && yield(user, i)) return EF_STOPPED;
    }
    return EF_OK;
}

ef_status ef_run_layers(const ef_program *program, uint8_t *arena, ef_yield yield, void *user)
{
    const ef_blob_header *header = (const void *)program->blob;
    return run_from(program, arena, header->once_count, header->layer_count, yield, user);
}

ef_status ef_begin_layers(const ef_program *program, uint8_t *arena, ef_yield yield, void *user)
{
    const ef_blob_header *header = (const void *)program->blob;
    return run_from(program, arena, 0, header->once_count, yield, user);
}
