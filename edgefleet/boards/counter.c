/* SPDX-License-Identifier: Apache-2.0
 *
 * A TCG plugin for QEMU: exact instructions, loads, stores and stack depth of each region between two markers.
 *
 * Arguments: marker=ADDRESS  stack=LOW:HIGH  out=FILE
 *   marker  four words. A store to word 0 begins a run, to word 1 ends it, to word 2 ends one of its layers, to word 3
 *           ends it and says that it was the initialisation.
 *   stack   where the stack lies; depth is from HIGH to the lowest address stored to.
 * Lines of FILE:  run|init|layer NUMBER INSTRUCTIONS LOADS STORES STACK_BYTES   (layers stand before their run)
 *
 * Loads and stores are counted in words of 4 bytes: an access of 8 bytes is two, one of 1 byte is one. Helium's vectors
 * come as QEMU breaks them up, element by element. The marker's own store is not counted as a store.
 *
 * Debian ships no header, so the interface is declared here: only what versions 1 to 5 share (-DAPI=n).
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
typedef uint32_t memory_info;
struct block;
struct instruction;
enum register_access { NO_REGISTERS };
enum memory_access { READS_AND_WRITES = 3 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
extern size_t qemu_plugin_tb_n_insns(const struct block *);
extern struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct instruction *, void (*)(unsigned, void *), enum register_access,
                                                   void *);
extern void qemu_plugin_register_vcpu_mem_cb(struct instruction *, void (*)(unsigned, memory_info, uint64_t, void *),
                                             enum register_access, enum memory_access, void *);
extern unsigned qemu_plugin_mem_size_shift(memory_info);
extern _Bool qemu_plugin_mem_is_store(memory_info);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);

#define EXPORTED __attribute__((visibility("default")))

EXPORTED int qemu_plugin_version = API;

struct counts {
    uint64_t instructions, loads, stores;
};

static struct counts now, run_began, layer_began;
static uint64_t marker, stack_low, stack_high, run_lowest, layer_lowest;
static int runs, layers, inside;
static FILE *out;

static void write_line(const char *what, int number, const struct counts *began, uint64_t lowest) {
    fprintf(out, "%s %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", what, number,
            now.instructions - began->instructions, now.loads - began->loads, now.stores - began->stores,
            stack_high - lowest);
}

static void begin_layer(void) {
    layer_began = now;
    layer_lowest = stack_high;
}

static void on_marker(unsigned word) {
    if (word == 0) {
        run_lowest = stack_high;
        run_began = now;
        layers = 0;
        inside = 1;
        begin_layer();
    } else if (inside && word == 2) {
        write_line("layer", layers++, &layer_began, layer_lowest);
        begin_layer();
    } else if (inside) {
        write_line(word == 1 ? "run" : "init", word == 1 ? runs++ : 0, &run_began, run_lowest);
        fflush(out); /* a board that is stopped later has told this much */
        inside = 0;
    }
}

static void on_instruction(unsigned processor, void *user) {
    (void)processor, (void)user;
    now.instructions++;
}

static void on_memory(unsigned processor, memory_info info, uint64_t address, void *user) {
    (void)processor, (void)user;
    unsigned shift = qemu_plugin_mem_size_shift(info), words = shift > 2 ? 1u << (shift - 2) : 1;
    if (!qemu_plugin_mem_is_store(info)) {
        now.loads += words;
        return;
    }
    if (address - marker < 16) {
        on_marker((unsigned)(address - marker) / 4);
        return;
    }
    now.stores += words;
    if (address < stack_low || address >= stack_high) return;
    if (address < run_lowest) run_lowest = address;
    if (address < layer_lowest) layer_lowest = address;
}

static void on_block(plugin_id id, struct block *block) {
    (void)id;
    for (size_t i = 0, n = qemu_plugin_tb_n_insns(block); i < n; i++) {
        struct instruction *instruction = qemu_plugin_tb_get_insn(block, i);
        qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_instruction, NO_REGISTERS, NULL);
        qemu_plugin_register_vcpu_mem_cb(instruction, on_memory, NO_REGISTERS, READS_AND_WRITES, NULL);
    }
}

static void on_exit_of_qemu(plugin_id id, void *user) {
    (void)id, (void)user;
    fclose(out);
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        if (value == NULL) return -1;
        *value++ = 0;
        if (strcmp(argv[i], "marker") == 0) {
            marker = strtoull(value, NULL, 0);
        } else if (strcmp(argv[i], "stack") == 0) {
            stack_low = strtoull(value, &value, 0);
            stack_high = strtoull(value + 1, NULL, 0);
        } else if (strcmp(argv[i], "out") == 0) {
            out = fopen(value, "w");
        } else {
            return -1;
        }
    }
    if (out == NULL || marker == 0) return -1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_atexit_cb(id, on_exit_of_qemu, NULL);
    return 0;
}
