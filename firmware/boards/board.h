/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program on one of our boards is given: files, text and an exit code by semihosting, and markers that tell the
 * instruction counter where runs and layers begin and end. The start-up calls main and exits with what it returns.
 */
#ifndef EDGEFLEET_BOARD_H
#define EDGEFLEET_BOARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Exit codes that the start-up itself uses. */
enum { BOARD_FAULT = 99 };

int main(void);

/* Semihosting. Names are relative to the board's private folder on the host. */
enum { BOARD_READ = 1, BOARD_WRITE = 5 };              /* "rb" and "wb" */
int board_open(const char *name, int mode);            /* -1: there is no such file */
uint32_t board_read(int file, void *to, uint32_t n);   /* bytes that were NOT read */
uint32_t board_write(int file, const void *from, uint32_t n);
void board_print(const char *text);
void board_exit(int code) __attribute__((noreturn));

/* The counter watches stores to these words: counts are exact and cost one store each. */
extern volatile uint32_t ef_marker[4];
#define BOARD_RUN_BEGIN() (ef_marker[0] = 0) /* counting from zero; the stack's depth too */
#define BOARD_RUN_END() (ef_marker[1] = 0)
#define BOARD_LAYER_END() (ef_marker[2] = 0) /* within a run: from its begin, or from the last layer's end */
#define BOARD_INIT_END() (ef_marker[3] = 0)  /* instead of BOARD_RUN_END, for what happens once */

#ifdef __cplusplus
}
#endif
#endif
