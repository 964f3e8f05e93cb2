/* SPDX-License-Identifier: Apache-2.0
 *
 * A generated program on this machine: samples come in on stdin, outputs go out on stdout. The arena and a blob that is
 * exchanged (the file argv[2]) lie in memory of exactly their size, so that sanitizers see each byte beyond.
 *
 * argv[1]: "keep" or "reset" (bind anew before each sample), or "twins" (two models take turns, and must agree).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <edgefleet/model.h>

#include MODEL_HEADER

enum { BLOB_LIMIT = 1 << 24 };

static ef_model models[2];
static void *arenas[2];
static uint32_t stop_after = UINT32_MAX;

static void fail(const char *step, const ef_model *model, int status)
{
    fprintf(stderr, "%s %d %s\n", step, status, model->refusal ? model->refusal : "-");
    exit(10 + status);
}

static void begin(int number)
{
    ef_model *model = &models[number];
    ef_status status = ef_open(model, &MODEL);
    if (status) fail("open", model, status);
    uint32_t bytes = ef_arena_bytes(model);
    arenas[number] = aligned_alloc(16, bytes);
    memset(arenas[number], 0x5a, bytes);
    status = ef_bind(model, arenas[number], bytes);
    if (status) fail("bind", model, status);
}

static int counted(void *user, uint32_t layer)
{
    ++*(uint32_t *)user;
    return layer >= stop_after;
}

/* Read the inputs of one sample; 0 at the end. */
static int read_inputs(const ef_model *model)
{
    uint32_t bytes;
    void *input;
    for (uint32_t i = 0; (input = ef_tensor(model, EF_INPUT, i, &bytes)) != 0; i++)
        if (fread(input, 1, bytes, stdin) != bytes) return 0;
    return 1;
}

static void copy_inputs(const ef_model *from, const ef_model *to)
{
    uint32_t bytes;
    void *input;
    for (uint32_t i = 0; (input = ef_tensor(from, EF_INPUT, i, &bytes)) != 0; i++)
        memcpy(ef_tensor(to, EF_INPUT, i, 0), input, bytes);
}

static void run(ef_model *model)
{
    uint32_t layers = 0;
    ef_status status = ef_invoke(model, counted, &layers);
    if (status || !layers) fail("invoke", model, status);
}

static void write_outputs(const ef_model *model, const ef_model *twin)
{
    uint32_t bytes;
    void *output;
    for (uint32_t i = 0; (output = ef_tensor(model, EF_OUTPUT, i, &bytes)) != 0; i++) {
        if (twin && memcmp(output, ef_tensor(twin, EF_OUTPUT, i, 0), bytes)) fail("twins", model, 9);
        fwrite(output, 1, bytes, stdout);
    }
}

#ifdef EF_UPDATABLE
static void *exchange(const char *path)
{
    FILE *file = fopen(path, "rb");
    uint8_t *whole = malloc(BLOB_LIMIT);
    uint32_t bytes = (uint32_t)fread(whole, 1, BLOB_LIMIT, file);
    fclose(file);
    uint8_t *blob = aligned_alloc(16, bytes); /* blobs are multiples of 16 */
    memcpy(blob, whole, bytes);
    free(whole);
    MODEL.blob = blob;
    MODEL.blob_bytes = bytes;
    return blob;
}
#endif

int main(int count, char **arguments)
{
    int reset = !strcmp(arguments[1], "reset"), twins = !strcmp(arguments[1], "twins");
    void *blob = 0;
#ifdef EF_UPDATABLE
    blob = exchange(arguments[2]);
#endif
    (void)count;
    begin(0);
    if (twins) begin(1);
    while (read_inputs(&models[0])) {
        if (twins) {
            copy_inputs(&models[0], &models[1]);
            uint32_t layers = 0;
            stop_after = 1; /* give up after the second layer, and run the other one meanwhile */
            if (ef_invoke(&models[1], counted, &layers) != EF_STOPPED || layers > 2) fail("stop", &models[1], 9);
            stop_after = UINT32_MAX;
        }
        if (twins) {
            copy_inputs(&models[0], &models[1]);
            run(&models[1]);
        }
        run(&models[0]);
        write_outputs(&models[0], twins ? &models[1] : 0);
        if (reset && ef_bind(&models[0], arenas[0], ef_arena_bytes(&models[0]))) return 1;
    }
    free(arenas[0]);
    free(arenas[1]);
    free(blob);
    return 0;
}
