/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a model over a batch: reads samples from the file "inputs", writes outputs to the file "outputs", and marks each
 * inference and layer for the instruction counter.
 *
 * "inputs" begins with one word of flags; then come the inputs of each sample, one after the other. Where flags say so,
 * the file "arenas" gets the whole arena after each layer: the host, which has the memory plan, finds every layer's
 * output in it.
 *
 * inference_model.h is written for each model: MODEL (its ef_program), MODEL_HEADER, MODEL_ARENA_BYTES,
 * MODEL_INPUTS and MODEL_OUTPUTS (bytes of each).
 */
#include <edgefleet/model.h>

#include "board.h"
#include "inference_model.h"
#include MODEL_HEADER

enum { RESET_EACH = 1, KEEP_ARENAS = 2 };
enum { EXIT_OPEN = 10, EXIT_BIND = 20, EXIT_INVOKE = 30, EXIT_FILES = 40 }; /* plus the ef_status */

static uint8_t arena[MODEL_ARENA_BYTES] __attribute__((aligned(16), section(".noinit")));
static const uint32_t input_bytes[] = MODEL_INPUTS, output_bytes[] = MODEL_OUTPUTS;

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static int after_layer(void *user, uint32_t layer) {
    (void)layer;
    BOARD_LAYER_END();
    const int *arenas = user;
    if (*arenas >= 0) board_write(*arenas, arena, sizeof arena);
    return 0;
}

/* Whether there was a whole sample. */
static int read_sample(const ef_model *model, int file) {
    for (uint32_t i = 0; i < COUNT(input_bytes); i++) {
        if (board_read(file, ef_tensor(model, EF_INPUT, i), input_bytes[i])) return 0;
    }
    return 1;
}

static void write_outputs(const ef_model *model, int file) {
    for (uint32_t i = 0; i < COUNT(output_bytes); i++) {
        board_write(file, ef_tensor(model, EF_OUTPUT, i), output_bytes[i]);
    }
}

int main(void) {
    ef_model model;
    BOARD_RUN_BEGIN();
    ef_status status = ef_open(&model, &MODEL);
    if (status) {
        if (status == EF_MISSING_KERNEL) board_print(model.refusal);
        return EXIT_OPEN + (int)status;
    }
    status = ef_bind(&model, arena, sizeof arena);
    BOARD_INIT_END();
    if (status) return EXIT_BIND + (int)status;

    uint32_t flags = 0;
    const int inputs = board_open("inputs", BOARD_READ), outputs = board_open("outputs", BOARD_WRITE);
    if (inputs < 0 || outputs < 0 || board_read(inputs, &flags, sizeof flags)) return EXIT_FILES;
    int arenas = flags & KEEP_ARENAS ? board_open("arenas", BOARD_WRITE) : -1;

    while (read_sample(&model, inputs)) {
        BOARD_RUN_BEGIN();
        status = ef_invoke(&model, after_layer, &arenas);
        BOARD_RUN_END();
        if (status) return EXIT_INVOKE + (int)status;
        write_outputs(&model, outputs);
        if (flags & RESET_EACH) ef_bind(&model, arena, sizeof arena);
    }
    return 0;
}
