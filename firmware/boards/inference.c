/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a model over a batch: reads samples from the file "inputs", writes outputs to the file "outputs", and marks the
 * initialisation, each inference and each of its layers for the instruction counter.
 *
 * "inputs" begins with one word of flags; then come the inputs of each sample, one after the other. An image made with
 * EF_KEEP_LAYERS writes each layer's output to the file "layers" (its counts are not those of an inference then).
 *
 * Defined for each model: EF_MODEL (its ef_program), EF_MODEL_HEADER, EF_MODEL_ARENA_BYTES, and for an updatable
 * program EF_MODEL_BLOB and EF_MODEL_BLOB_BYTES, which stand for a slot in flash.
 */
#include <edgefleet/model.h>

#include "board.h"
#include EF_MODEL_HEADER

enum { RESET_EACH = 1 };
enum { EXIT_OPEN = 10, EXIT_BIND = 20, EXIT_INVOKE = 30, EXIT_FILES = 40 }; /* plus the ef_status */

static uint8_t arena[EF_MODEL_ARENA_BYTES] __attribute__((aligned(16), section(".noinit")));
static ef_model model;

#ifdef EF_KEEP_LAYERS
static int layers_file;
#endif

static int after_layer(void *user, uint32_t layer) {
    (void)user, (void)layer;
    BOARD_LAYER_END();
#ifdef EF_KEEP_LAYERS
    uint32_t bytes = 0;
    const void *output = ef_layer_output(&model, layer, &bytes);
    board_write(layers_file, output, bytes);
#endif
    return 0;
}

/* Read all inputs, or write all outputs. Whether that was a whole sample. */
static int transfer(ef_direction direction, int file) {
    uint32_t bytes, left = 0;
    void *tensor;
    for (uint32_t i = 0; left == 0 && (tensor = ef_tensor(&model, direction, i, &bytes)) != NULL; i++) {
        left = direction == EF_INPUT ? board_read(file, tensor, bytes) : board_write(file, tensor, bytes);
    }
    return left == 0;
}

int main(void) {
    BOARD_RUN_BEGIN();
#ifdef EF_UPDATABLE
    EF_MODEL.blob = EF_MODEL_BLOB;
    EF_MODEL.blob_bytes = EF_MODEL_BLOB_BYTES;
#endif
    ef_status status = ef_open(&model, &EF_MODEL);
    if (status) {
        board_print(model.refusal);
        return EXIT_OPEN + (int)status;
    }
    status = ef_bind(&model, arena, sizeof arena);
    BOARD_INIT_END();
    if (status) return EXIT_BIND + (int)status;

    uint32_t flags;
    const int inputs = board_open("inputs", BOARD_READ), outputs = board_open("outputs", BOARD_WRITE);
    if (inputs < 0 || outputs < 0 || board_read(inputs, &flags, sizeof flags)) return EXIT_FILES;
#ifdef EF_KEEP_LAYERS
    layers_file = board_open("layers", BOARD_WRITE);
#endif

    while (transfer(EF_INPUT, inputs)) {
        BOARD_RUN_BEGIN();
        status = ef_invoke(&model, after_layer, NULL);
        BOARD_RUN_END();
        if (status) return EXIT_INVOKE + (int)status;
        if (!transfer(EF_OUTPUT, outputs)) return EXIT_FILES;
        if (flags & RESET_EACH) ef_bind(&model, arena, sizeof arena);
    }
    return 0;
}
