/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures: resize (pixel centres mapped, exact sums, one division rounded half up), pick channels, look the level up.
 * Each row of the frame is resized across once, as it comes; the last few of them are kept until every row of the result
 * that they take part in is made. Weights are whole numbers and follow from the sizes, so that there are no tables.
 */
#include <edgefleet/preprocess.h>

/* The pixels of the frame that one pixel of the result is made of, and how their weights come about. */
typedef struct {
    int32_t first, last; /* last is one too far */
    int32_t distance, step;
} taps;

static inline uint32_t weight_at(const ef_axis *axis, int32_t distance)
{
    uint32_t away = distance < 0 ? (uint32_t)-distance : (uint32_t)distance;
    uint32_t weight = axis->reach - away;
    return weight < axis->cap ? weight : axis->cap;
}

static taps taps_of(const ef_axis *axis, uint32_t out)
{
    int32_t centre = (int32_t)((2 * out + 1) * axis->in_part), reach = (int32_t)axis->reach;
    int32_t step = 2 * axis->out_part;
    /* the centre of pixel i lies at i * step + step / 2; where centre - reach is negative, so is first: cut below */
    int32_t below = centre - reach - axis->out_part, above = centre + reach - axis->out_part;
    taps t;
    t.first = below < 0 ? 0 : below / step + 1;
    t.last = (above + step - 1) / step;
    if (t.last > axis->in) t.last = axis->in;
    t.step = step;
    t.distance = t.first * step + axis->out_part - centre;
    return t;
}

static uint32_t total_of(const ef_axis *axis, taps t)
{
    uint32_t total = 0;
    for (int32_t i = t.first; i < t.last; i++, t.distance += t.step) total += weight_at(axis, t.distance);
    return total;
}

static inline uint32_t nearest(const ef_axis *axis, uint32_t out)
{
    return (2 * out + 1) * axis->in_part / (2u * axis->out_part);
}

/* ITU-R BT.601, rounded half up to whole levels. */
static inline uint8_t luma(uint32_t red, uint32_t green, uint32_t blue)
{
    return (uint8_t)((2 * (299 * red + 587 * green + 114 * blue) + 1000) / 2000);
}

static int8_t *put_pixel(const ef_picture_facts *facts, const uint8_t *pixel, int8_t *input)
{
    const int8_t *levels = facts->levels;
    if (facts->out_channels == 1) {
        *input = levels[facts->frame_channels == 1 ? pixel[0] : luma(pixel[0], pixel[1], pixel[2])];
        return input + 1;
    }
    uint32_t step = facts->frame_channels == 1 ? 0 : 1;
    uint32_t red = facts->reversed ? 2 : 0;
    input[red] = levels[pixel[0]];
    input[1] = levels[pixel[step]];
    input[2 - red] = levels[pixel[2 * step]];
    return input + 3;
}

/* Scratch: the sum of weights of each column, the weights of one row, then the rows that are kept. */
static inline uint32_t *row_weights(const ef_picture *picture)
{
    return picture->scratch + picture->facts->across.out;
}

static inline uint32_t *kept_row(const ef_picture *picture, uint32_t frame_row)
{
    const ef_picture_facts *facts = picture->facts;
    uint32_t numbers = (uint32_t)facts->across.out * facts->frame_channels;
    return row_weights(picture) + facts->rows_kept + frame_row % facts->rows_kept * numbers;
}

void ef_picture_begin(ef_picture *picture, const ef_picture_facts *facts, void *scratch, int8_t *input)
{
    picture->facts = facts;
    picture->scratch = scratch;
    picture->input = input;
    picture->frame_row = 0;
    picture->row = 0;
    if (facts->resize != EF_PICTURE_WEIGHTED) return;
    for (uint32_t x = 0; x < facts->across.out; x++)
        picture->scratch[x] = total_of(&facts->across, taps_of(&facts->across, x));
}

static void resize_across(const ef_picture_facts *facts, const uint8_t *pixels, uint32_t *sums)
{
    const ef_axis *axis = &facts->across;
    for (uint32_t x = 0; x < axis->out; x++) {
        taps t = taps_of(axis, x);
        if (facts->frame_channels == 1) {
            uint32_t grey = 0;
            for (int32_t i = t.first; i < t.last; i++, t.distance += t.step)
                grey += weight_at(axis, t.distance) * pixels[i];
            *sums++ = grey;
        } else {
            uint32_t red = 0, green = 0, blue = 0;
            const uint8_t *pixel = pixels + 3 * t.first;
            for (int32_t i = t.first; i < t.last; i++, t.distance += t.step, pixel += 3) {
                uint32_t weight = weight_at(axis, t.distance);
                red += weight * pixel[0];
                green += weight * pixel[1];
                blue += weight * pixel[2];
            }
            *sums++ = red;
            *sums++ = green;
            *sums++ = blue;
        }
    }
}

/* One column of the rows that are kept, from the first that takes part; they lie in a ring. */
typedef struct {
    const uint32_t *weights, *weights_end;
    const uint32_t *first, *wrap; /* the column's place in the first row, and behind the last row of the ring */
    uint32_t row_step, ring_step;
} column;

/* The level of one number of the result. */
static inline uint8_t level_narrow(const column *rows, uint32_t number, uint32_t total)
{
    uint32_t sum = 0;
    const uint32_t *at = rows->first + number, *wrap = rows->wrap + number;
    for (const uint32_t *weight = rows->weights; weight < rows->weights_end; at += rows->row_step) {
        if (at == wrap) at -= rows->ring_step;
        sum += *weight++ * *at;
    }
    return (uint8_t)((2 * sum + total) / (2 * total));
}

static uint8_t level_wide(const column *rows, uint32_t number, uint64_t total)
{
    uint64_t sum = 0;
    const uint32_t *at = rows->first + number, *wrap = rows->wrap + number;
    for (const uint32_t *weight = rows->weights; weight < rows->weights_end; at += rows->row_step) {
        if (at == wrap) at -= rows->ring_step;
        sum += (uint64_t)*weight++ * *at;
    }
    return (uint8_t)((2 * sum + total) / (2 * total));
}

static void make_row(ef_picture *picture, taps t)
{
    const ef_picture_facts *facts = picture->facts;
    uint32_t total = 0, number = 0;
    column rows;
    rows.row_step = (uint32_t)facts->across.out * facts->frame_channels;
    rows.ring_step = rows.row_step * facts->rows_kept;
    rows.first = kept_row(picture, (uint32_t)t.first);
    rows.wrap = kept_row(picture, 0) + rows.ring_step;
    uint32_t *weights = row_weights(picture);
    rows.weights = weights;
    for (int32_t i = t.first; i < t.last; i++, t.distance += t.step)
        total += *weights++ = weight_at(&facts->down, t.distance);
    rows.weights_end = weights;
    for (uint32_t x = 0; x < facts->across.out; x++) {
        uint8_t pixel[3];
        uint32_t across = picture->scratch[x];
        for (uint32_t c = 0; c < facts->frame_channels; c++, number++)
            pixel[c] = facts->wide ? level_wide(&rows, number, (uint64_t)total * across)
                                   : level_narrow(&rows, number, total * across);
        picture->input = put_pixel(facts, pixel, picture->input);
    }
    picture->row++;
}

static void take_weighted(ef_picture *picture, const uint8_t *pixels)
{
    const ef_picture_facts *facts = picture->facts;
    resize_across(facts, pixels, kept_row(picture, picture->frame_row));
    while (picture->row < facts->down.out) {
        taps t = taps_of(&facts->down, picture->row);
        if (t.last > (int32_t)picture->frame_row + 1) return;
        make_row(picture, t);
    }
}

static void take_nearest(ef_picture *picture, const uint8_t *pixels)
{
    const ef_picture_facts *facts = picture->facts;
    for (; picture->row < facts->down.out; picture->row++) {
        if (nearest(&facts->down, picture->row) != picture->frame_row) return;
        for (uint32_t x = 0; x < facts->across.out; x++) {
            const uint8_t *pixel = pixels + nearest(&facts->across, x) * facts->frame_channels;
            picture->input = put_pixel(facts, pixel, picture->input);
        }
    }
}

static void take_as_it_is(ef_picture *picture, const uint8_t *pixels)
{
    const ef_picture_facts *facts = picture->facts;
    for (uint32_t x = 0; x < facts->across.in; x++, pixels += facts->frame_channels)
        picture->input = put_pixel(facts, pixels, picture->input);
}

void ef_picture_row(ef_picture *picture, const uint8_t *pixels)
{
    const ef_picture_facts *facts = picture->facts;
    if (picture->frame_row >= facts->down.in) return;
    if (facts->resize == EF_PICTURE_WEIGHTED)
        take_weighted(picture, pixels);
    else if (facts->resize == EF_PICTURE_NEAREST)
        take_nearest(picture, pixels);
    else
        take_as_it_is(picture, pixels);
    picture->frame_row++;
}
