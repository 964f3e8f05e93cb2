/* SPDX-License-Identifier: Apache-2.0
 * What a layer made, for those who compare layer by layer. */
#include <edgefleet/blob.h>
#include <edgefleet/model.h>

const void *ef_layer_output(const ef_model *model, uint32_t layer, uint32_t *bytes)
{
    const uint8_t *blob = model->program->blob;
    const ef_blob_header *header = (const void *)blob;
    if (!model->arena || layer >= header->layer_count) return 0;
    const ef_layer_record *record = (const ef_layer_record *)(const void *)(blob + header->layers_at) + layer;
    const uint32_t *places = (const void *)(blob + record->layer_at);
    *bytes = record->output_bytes;
    return model->arena + places[record->inputs];
}
