/* SPDX-License-Identifier: Apache-2.0
 *
 * Instructions of the Arm DSP extension that C has no words for, and loads that need no alignment.
 */
#ifndef EDGEFLEET_DSP_INTRINSICS_H
#define EDGEFLEET_DSP_INTRINSICS_H

#include <stdint.h>

/* Four bytes at any address: one ldr. Never two at once, which would need alignment (ldrd, ldm). */
typedef struct __attribute__((packed, may_alias)) {
    uint32_t value;
} ef_loose_word;

static inline uint32_t ef_load_word(const void *from)
{
    return ((const ef_loose_word *)from)->value;
}

static inline void ef_store_word(void *to, uint32_t value)
{
    ((ef_loose_word *)to)->value = value;
}

/* The first n of four bytes (n > 4 is 4), zeros behind them; nothing else is read. */
static inline uint32_t ef_load_bytes(const int8_t *from, int32_t n)
{
    if (n >= 4) return ef_load_word(from);
    uint32_t word = 0;
    for (int32_t i = 0; i < n; i++) word |= (uint32_t)(uint8_t)from[i] << (8 * i);
    return word;
}

#define EF_UNARY(name, text)                                  \
    static inline uint32_t name(uint32_t a)                   \
    {                                                         \
        uint32_t result;                                      \
        __asm__(text : "=r"(result) : "r"(a));                \
        return result;                                        \
    }
#define EF_BINARY(name, text)                                 \
    static inline uint32_t name(uint32_t a, uint32_t b)       \
    {                                                         \
        uint32_t result;                                      \
        __asm__(text : "=r"(result) : "r"(a), "r"(b));        \
        return result;                                        \
    }
#define EF_TERNARY(name, type, text)                          \
    static inline int32_t name(type a, type b, int32_t c)     \
    {                                                         \
        int32_t result;                                       \
        __asm__(text : "=r"(result) : "r"(a), "r"(b), "r"(c)); \
        return result;                                        \
    }

EF_UNARY(ef_even_bytes, "sxtb16 %0, %1")         /* bytes 0 and 2, sign-extended to halves */
EF_UNARY(ef_odd_bytes, "sxtb16 %0, %1, ror #8")  /* bytes 1 and 3 */
EF_UNARY(ef_swap_in_halves, "rev16 %0, %1")
EF_BINARY(ef_low_halves, "pkhbt %0, %1, %2, lsl #16") /* a's low half below b's low half */
EF_BINARY(ef_high_halves, "pkhtb %0, %2, %1, asr #16") /* a's high half below b's high half */
EF_BINARY(ef_add_even_bytes, "sxtab16 %0, %1, %2")
EF_BINARY(ef_add_odd_bytes, "sxtab16 %0, %1, %2, ror #8")
EF_TERNARY(ef_multiply_halves, uint32_t, "smlad %0, %1, %2, %3")  /* c + a.low * b.low + a.high * b.high */
EF_TERNARY(ef_multiply_high_words, int32_t, "smmla %0, %1, %2, %3") /* c + (a * b >> 32) */
EF_TERNARY(ef_multiply_word_low, uint32_t, "smlawb %0, %1, %2, %3")  /* c + (a * b.low >> 16) */
EF_TERNARY(ef_multiply_word_high, uint32_t, "smlawt %0, %1, %2, %3") /* c + (a * b.high >> 16) */

#undef EF_UNARY
#undef EF_BINARY
#undef EF_TERNARY

/* The larger of each two signed bytes. */
static inline uint32_t ef_larger_bytes(uint32_t a, uint32_t b)
{
    uint32_t result;
    __asm__("ssub8 %0, %1, %2\n\tsel %0, %1, %2" : "=&r"(result) : "r"(a), "r"(b));
    return result;
}

static inline int32_t ef_saturate_after_15(int32_t value)
{
    int32_t result;
    __asm__("ssat %0, #8, %1, asr #15" : "=r"(result) : "r"(value));
    return result;
}

static inline int32_t ef_saturate_after_20(int32_t value)
{
    int32_t result;
    __asm__("ssat %0, #8, %1, asr #20" : "=r"(result) : "r"(value));
    return result;
}

/* Bytes 0 to 3 from the low bytes of four words. */
static inline uint32_t ef_join_bytes(uint32_t b0, uint32_t b1, uint32_t b2, uint32_t b3)
{
    __asm__("bfi %0, %1, #8, #8\n\tbfi %0, %2, #16, #8\n\tbfi %0, %3, #24, #8" : "+r"(b0) : "r"(b1), "r"(b2), "r"(b3));
    return b0;
}

#endif
