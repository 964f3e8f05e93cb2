/* SPDX-License-Identifier: Apache-2.0
 *
 * What the dsp set's assembler files share: how a function begins and ends, and how an accumulator becomes int8.
 *
 * All loops here keep sp valid and call nothing, so interrupts may come at any time. smlad sets the Q flag where a sum
 * passes 2^31 on its way; sums are modulo 2^32 and end in range, and nothing reads the flag.
 */
#ifndef EDGEFLEET_DSP_ASSEMBLY_H
#define EDGEFLEET_DSP_ASSEMBLY_H

    .syntax unified
    .thumb

    .macro FUNCTION name
#ifdef EF_FAST_CODE_SECTION
    .section EF_FAST_CODE_SECTION, "ax", %progbits
#else
    .section .text.\name, "ax", %progbits
#endif
    .balign 4
    .global \name
    .type \name, %function
    .thumb_func
\name:
    .endm

    .macro END name
    .size \name, . - \name
    .endm

/* sum = ssat8(((sum << l) * m >> 32) + c >> 15) */
    .macro SCALE_RELU sum, m, c, l
    lsl \sum, \sum, \l
    smmla \sum, \sum, \m, \c
    ssat \sum, #8, \sum, asr #15
    .endm

/* The same with + k before the last shift where sum < 0; spare is overwritten. */
    .macro SCALE_ANY sum, k, m, c, l, spare
    lsl \sum, \sum, \l
    and \spare, \k, \sum, asr #31
    smmla \sum, \sum, \m, \c
    add \sum, \sum, \spare
    ssat \sum, #8, \sum, asr #15
    .endm

#endif
