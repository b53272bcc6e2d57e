/* The overlay: eight single-work-item kernels joined by channels. They interpret layer descriptors, so a network is
 * data. docs/explanation/fpga-overlay.md has the picture, the schedule and the memory map.
 *
 *   fetch --descriptors--> params, weights, former, features, array, requant, sink
 *   features --act--> array --acc--> requant --result--> features        (all maps stay in `features`)
 *   weights --weight--> array      params --bytes--> former --image--> requant      params --param--> requant
 *   features --store--> sink
 *
 * Rules that every loop here keeps, and why they allow an initiation interval of 1 (`#pragma ii 1` demands it):
 *   - one loop a layer, with counters that wrap: no nest to drain, no division, exit known from one comparison;
 *   - what is carried is a counter of 16 bits that knows one step ahead whether it is at its last value, a sum with one
 *     addition, or an accumulator that is added to once an iteration;
 *   - no run-time index into registers: such arrays become memories. Multiplexers are written out, words are shifted;
 *   - an on-chip memory is an array for each bank, with one load and one store site;
 *   - each channel end has one call site;
 *   - external memory is only read (or only written) in a kernel, in address order, in words of a power of two bytes.
 */
#include "overlay.h"
#include "arithmetic.h"

/* Depths. A descriptor waits at most one layer: 2. `weight` covers the latency of external memory and holds what is
 * fetched ahead for layers that need more than it delivers. `act` and `acc` cover the pipelines that they join.
 * `result` must hold what is under way between `features`' last send and its first receive: LAG iterations yield at
 * most LAG + 2 LANE/CW words (geometry.py sets it so). */
channel layer_t to_params   __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_weights  __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_former   __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_features __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_array    __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_requant  __attribute__((depth(DESCRIPTOR_DEPTH)));
channel layer_t to_sink     __attribute__((depth(DESCRIPTOR_DEPTH)));
channel bytes_t bytes_ch    __attribute__((depth(BYTES_DEPTH)));
channel res_t   image_ch    __attribute__((depth(IMAGE_DEPTH)));
channel wword_t weight_ch   __attribute__((depth(WEIGHT_DEPTH)));
channel par_t   param_ch    __attribute__((depth(PARAM_DEPTH)));
channel act_t   act_ch      __attribute__((depth(ACT_DEPTH)));
channel acc_t   acc_ch      __attribute__((depth(ACC_DEPTH)));
channel res_t   result_ch   __attribute__((depth(RESULT_DEPTH)));
channel act_t   store_ch    __attribute__((depth(STORE_DEPTH)));
#ifdef COUNT_TRIPS
channel int     params_trips   __attribute__((depth(TRIPS_DEPTH)));   /* these two run layers ahead */
channel int     weights_trips  __attribute__((depth(TRIPS_DEPTH)));
channel int     former_trips   __attribute__((depth(TRIPS_DEPTH)));
channel int     features_trips __attribute__((depth(TRIPS_DEPTH)));
channel int     array_trips    __attribute__((depth(TRIPS_DEPTH)));
channel int     requant_trips  __attribute__((depth(TRIPS_DEPTH)));
#endif

/* Checks every descriptor's checksum, then sends the program `runs` times, then OP_END. A corrupt descriptor stops
 * everything before the first layer: status[0] becomes 1 + its index.
 * First loop: the carried value is a sum with one addition (the rotation is wiring). Second loop: no carried value but counters. */
TASK __kernel void fetch(__global const layer_t *restrict program, __global const int *restrict words, int layers,
                         int runs, __global int *restrict status)
{
  uint sum = 1;
  int at = 0, index = 0, bad = 0;
  II1 for (int i = 0; i < layers * LAYER_WORDS; ++i) {
    const uint word = (uint)words[i];
    const bool last = at == LAYER_WORDS - 1;
    if (last && word != sum && bad == 0) bad = index + 1;
    sum = last ? 1 : rotate(sum, 5u) + word;
    at = last ? 0 : at + 1;
    index += last;
  }
  status[0] = bad;
  const int total = bad ? 0 : layers * runs;
  int layer = 0;
  for (int i = 0; i <= total; ++i) {
    layer_t d = program[layer];
    if (i == total) d.op = OP_END;
    if (++layer == layers) layer = 0;
    write_channel_intel(to_params, d);
    write_channel_intel(to_weights, d);
    write_channel_intel(to_former, d);
    write_channel_intel(to_features, d);
    write_channel_intel(to_array, d);
    write_channel_intel(to_requant, d);
    write_channel_intel(to_sink, d);
  }
}

/* External memory is read by two kernels, one for each consumer and in that consumer's order. (One kernel for both
 * streams deadlocks: parameters wait for results that wait for the weights queued behind them.) Neither waits for a
 * layer to end, so both prefetch as far as their channels allow. II = 1: sequential reads, one counter each. */
TASK __kernel void params(__global const bytes_t *restrict image, __global const par_t *restrict groups)
{
  int at = 0;                                        /* images follow each other through all runs */
  for (;;) {
    const layer_t d = read_channel_intel(to_params);
    if (d.op == OP_END) return;
    COUNT(int trips = 0);
    if (d.op == OP_LOAD) {
      /* Raw images: each row from the word that its first byte is in to the word of its last, so a word that two rows
       * share is read twice. `first` and `last` are byte positions. */
      int word = 0, first = 0, last = d.row_bytes - 1;
      II1 for (int i = 0; i < d.load_words; ++i) {
        write_channel_intel(bytes_ch, image[at + word]);
        const bool row_done = d.byte_step && word == last / BYTES;
        if (row_done) { first += d.row_bytes; last += d.row_bytes; }
        word = row_done ? first / BYTES : word + 1;
        COUNT(++trips);
      }
      at += d.load_size;
    } else if (d.op != OP_STORE) {
      II1 for (int g = 0; g < d.groups; ++g) {
        write_channel_intel(param_ch, groups[d.par_base + g]);
        COUNT(++trips);
      }
    }
    COUNT(write_channel_intel(params_trips, trips));
  }
}

TASK __kernel void weights(__global const wword_t *restrict packed)
{
  for (;;) {
    const layer_t d = read_channel_intel(to_weights);
    if (d.op == OP_END) return;
    COUNT(int trips = 0);
    II1 for (int i = 0; i < d.w_words; ++i) {
      write_channel_intel(weight_ch, packed[d.w_base + i]);
      COUNT(++trips);
    }
    COUNT(write_channel_intel(weights_trips, trips));
  }
}

/* Makes the words of a LOAD out of 64-byte words of external memory. Two kinds:
 * - raw images (byte_step > 0): the bytes of an image's rows as they are. Pixel p of a group takes byte_taps bytes from
 *   position (xg * PIX + p) * byte_step - byte_pad of its row on: the window that a convolution's row needs, or the
 *   pixel's own planes. Positions outside the row are padding.
 * - packed by the host (byte_step 0), for inputs of many channels: FORMED_WORDS words hold one result word.
 * An iteration takes a word or makes one.
 *
 * II = 1: what is carried is `buffer`, shifted by one of MAX_STEP + 1 distances, and counters. */
SERVICE __kernel void former(void)
{
  for (;;) {
    const layer_t d = read_channel_intel(to_former);
    UNTIL_END(d);
    COUNT(int trips = 0);
    const int total = d.op == OP_LOAD ? d.load_words + d.outputs * d.out_words : 0;
    const short enough = d.byte_step ? (PIX - 1) * d.byte_step + d.byte_taps + BYTES : FORMED_WORDS * BYTES;
    const short passed = d.byte_step ? PIX * d.byte_step : FORMED_WORDS * BYTES;
    uchar buffer[SPAN];
    short offset = 0;                                 /* of the row's first byte in its word  */
    short fill = d.byte_step ? BYTES + d.byte_pad : 0;  /* where the next word goes           */
    int left = d.byte_step ? (d.row_bytes + BYTES - 1) / BYTES : d.load_words;          /* words of the row to come */
    int base = -d.byte_pad;                           /* position of the group's first byte in its row */
    ushort sub = 0;
    counter_t xg = counter(d.cols);
    II1 for (int i = 0; i < total; ++i) {
      if (left > 0 && (fill < enough || (xg.last && d.byte_step))) {   /* a row is read to its end */
        const bytes_t word = read_channel_intel(bytes_ch);
        UNROLL for (int b = 0; b < SPAN; ++b)         /* a barrel shifter */
          if (b >= fill && b < fill + BYTES) buffer[b] = word.b[b - fill];
        fill += BYTES;
        --left;
      } else {
        res_t v;
        UNROLL for (int p = 0; p < PIX; ++p)
          UNROLL for (int c = 0; c < CW; ++c) {
            uchar x = buffer[p * CW + c];             /* packed */
            const int j = sub * CW + c;
            UNROLL for (int s = 1; s <= MAX_STEP; ++s)
              UNROLL for (int h = 0; h < NH; ++h)
                if (d.byte_step == s && sub == h) x = buffer[BYTES + p * s + h * CW + c];
            if (d.byte_step) {
              const int position = base + p * d.byte_step + j;
              if (position < 0 || position >= d.row_bytes) x = (uchar)d.pad_value;
              if (j >= d.byte_taps) x = 0;
            }
            v.p[p].c[c] = x;
          }
        write_channel_intel(image_ch, v);
        if (!d.byte_step || ++sub == NH) {
          sub = 0;
          UNROLL for (int b = 0; b < SPAN; ++b) {     /* the group is done: shift it out */
            uchar x = b + FORMED_WORDS * BYTES < SPAN ? buffer[(b + FORMED_WORDS * BYTES) % SPAN] : 0;
            UNROLL for (int s = 1; s <= MAX_STEP; ++s)
              if (d.byte_step == s) x = b + PIX * s < SPAN ? buffer[(b + PIX * s) % SPAN] : 0;
            buffer[b] = x;
          }
          fill -= passed;
          base += passed;
          if (xg.last && d.byte_step) {               /* the next row starts within a word */
            offset = (offset + d.row_bytes) % BYTES;
            left = (offset + d.row_bytes + BYTES - 1) / BYTES;
            fill = BYTES + d.byte_pad - offset;
            base = -d.byte_pad;
          }
          xg = next(xg, d.cols);
        }
      }
      COUNT(++trips);
    }
    COUNT(write_channel_intel(former_trips, trips));
  }
}

/* Owns all feature maps: two on-chip memories of PIX banks, each bank an array with one read and one write port. Pixel
 * x of a row lies in bank x mod PIX. Each iteration sends one vector of channels for each pixel and, `lag` iterations
 * after a pixel group's last send, takes one word of its results. The next layer's reads start only after this loop has
 * stored its last result: no fence, no token, no global memory.
 *
 * Addresses are sums that are kept up to date, so there is no multiplier in the loop: `at` for what all pixels share,
 * and for each pixel its distance from the first one, as bank and words (a tap that passes the last bank carries).
 *
 * II = 1: `ivdep` is true because a layer never reads what it writes (the placement gives source and result
 * different words), except a residual operand overwritten in place: its word is read in the iteration that writes
 * it, before the write, and never again. Counters are the only carried values. */
SERVICE __kernel void features(void)
{
#define DECLARE_BANK(b) __local vword_t map0_##b[MAP0_WORDS], map1_##b[MAP1_WORDS];
  EACH_BANK(DECLARE_BANK)
  for (;;) {
    const layer_t d = read_channel_intel(to_features);
    UNTIL_END(d);
    COUNT(int trips = 0);
    const long add_offset = (long)((ulong)(uint)d.add_offset_high << 32 | (uint)d.add_offset_low);
    /* once a layer: constants of the sums */
    const at_t in_row = (at_t)(d.in_cols * d.in_vecs), group_words = (at_t)(d.stride_x * d.in_vecs);
    const at_t stride_rows = (at_t)(d.stride_y * in_row);
    const at_t first_row = (at_t)(d.in_base - d.pad_y * in_row);
    const ushort pad_words = ((ushort)d.pad_x + PIX - 1) / PIX;
    const ushort first_bank = pad_words * PIX - d.pad_x;          /* of the tap at -pad_x */
    const at_t first_tap = (at_t)(0 - pad_words * d.in_vecs);
    const ushort step_bank = (ushort)d.stride_x % PIX;
    const at_t step_words = (at_t)((ushort)d.stride_x / PIX * d.in_vecs);
    ushort pixel_bank[PIX];
    at_t pixel_words[PIX];
    pixel_bank[0] = 0;
    pixel_words[0] = 0;
    UNROLL for (int p = 1; p < PIX; ++p) {
      const ushort bank = pixel_bank[p - 1] + step_bank;
      pixel_bank[p] = bank >= PIX ? bank - PIX : bank;
      pixel_words[p] = pixel_words[p - 1] + step_words + (bank >= PIX ? d.in_vecs : 0);
    }
    /* sending */
    counter_t cv = counter(d.red_vecs), kx = counter(d.taps_x), ky = counter(d.taps_y), k = counter(d.period);
    counter_t xg = counter(d.cols), y = counter(d.rows), n = counter(d.images);
    bool more = true;                                             /* the pixel group has vectors to send */
    at_t vec_at = 0, tap_at = first_tap, ky_at = 0, col_at = 0, row_at = first_row, image_at = 0;
    ushort tap_bank = first_bank;
    int tap_x = -d.pad_x, col_x = 0, in_y = -d.pad_y, ky_y = 0;
    int first_vec = 0;
    /* receiving */
    counter_t r_step = counter(d.period), r_xg = counter(d.cols), r_y = counter(d.rows), r_n = counter(d.images);
    ushort r_first = 0, r_word = 0;
    bool r_more = true;                                           /* the pixel group has words to come */
    ushort r_left = d.out_words - 1;
    at_t out_row = 0, out_image = (at_t)d.out_base, skip_image = (at_t)d.skip_base;
    const int sends = d.op == OP_LOAD ? 0 : d.outputs * d.period;
    const int first_result = d.period - 1 + d.lag;
    const int last_result = d.op == OP_STORE ? 0 : first_result + d.outputs * d.period;
#pragma ivdep
    II1 for (int i = 0; i < d.trips; ++i) {
      const bool sending = i < sends;
      const bool send = sending && more;
      const bool receiving = i >= first_result && i < last_result;
      const bool receive = receiving && r_more;
      const at_t out_vec = r_word / NH;                           /* NH is a power of two */
      const ushort out_half = r_word % NH;
      const bool keep = receive && out_vec < d.out_vecs;          /* lanes beyond the last channel are dropped */
      const at_t out_index = (at_t)(out_row + out_vec);

      /* one address for each bank and memory: the activation's if the layer reads that memory, else the skip's */
      const at_t at = (at_t)(vec_at + tap_at + ky_at + col_at + row_at + image_at + first_vec);
      const bool row_inside = send && in_y + ky_y >= 0 && in_y + ky_y < d.in_h;
      ushort bank_of[PIX];
      bool inside[PIX];
      at_t address[PIX];
      UNROLL for (int b = 0; b < PIX; ++b) address[b] = (at_t)d.in_base;
      UNROLL for (int p = 0; p < PIX; ++p) {
        const ushort bank = pixel_bank[p] + tap_bank;
        const bool carry = bank >= PIX;
        const int x = col_x + tap_x + p * d.stride_x;
        bank_of[p] = carry ? bank - PIX : bank;
        inside[p] = row_inside && x >= 0 && x < d.in_w;
        UNROLL for (int b = 0; b < PIX; ++b)                      /* a crossbar: no run-time index into registers */
          if (bank_of[p] == b && inside[p]) address[b] = (at_t)(at + pixel_words[p] + (carry ? d.in_vecs : 0));
      }
      const at_t skip = keep && d.add ? (at_t)(skip_image + out_index) : 0;
      vword_t from_in[PIX], from_skip[PIX];
#define READ_BANK(b) { \
        const vword_t v0 = map0_##b[d.in_mem ? skip : address[b]]; \
        const vword_t v1 = map1_##b[d.in_mem ? address[b] : skip]; \
        from_in[b] = d.in_mem ? v1 : v0; \
        from_skip[b] = d.in_mem ? v0 : v1; }
      EACH_BANK(READ_BANK)
      if (send) {
        act_t a;
        UNROLL for (int p = 0; p < PIX; ++p) {
          UNROLL for (int h = 0; h < NH; ++h)
            UNROLL for (int c = 0; c < CW; ++c) a.p[p].h[h].c[c] = (uchar)d.pad_value;
          UNROLL for (int b = 0; b < PIX; ++b)
            if (bank_of[p] == b && inside[p]) a.p[p] = from_in[b];
        }
        if (d.op == OP_STORE) write_channel_intel(store_ch, a);
        else                  write_channel_intel(act_ch, a);
      }
      if (receive) {
        res_t v = read_channel_intel(result_ch);
        if (d.add)
          UNROLL for (int p = 0; p < PIX; ++p) {
            cword_t r = from_skip[p].h[0];
            UNROLL for (int h = 1; h < NH; ++h)
              if (out_half == h) r = from_skip[p].h[h];
            UNROLL for (int c = 0; c < CW; ++c)
              v.p[p].c[c] = add_rule(v.p[p].c[c], r.c[c], d.add_first, d.add_second, add_offset, d.add_shift,
                                     d.add_tie, d.add_increment, d.add_low, d.add_high);
          }
        if (keep) {
          const at_t to = (at_t)(out_image + out_index);
#define WRITE_BANK(b) { \
          if (d.out_mem) map1_##b[to].h[out_half] = v.p[b]; \
          else           map0_##b[to].h[out_half] = v.p[b]; }
          EACH_BANK(WRITE_BANK)
        }
      }

      /* counters: innermost first, each wraps into the next */
      if (send) {
        ++vec_at;
        if (cv.last) {
          vec_at = 0;
          tap_x += d.tap_step;
          const bool wraps = d.tap_step != 1 || tap_bank == PIX - 1;   /* a step of PIX keeps the bank */
          if (d.tap_step == 1) tap_bank = tap_bank == PIX - 1 ? 0 : tap_bank + 1;
          if (wraps) tap_at += d.in_vecs;
          if (kx.last) {
            tap_x = -d.pad_x;
            tap_bank = first_bank;
            tap_at = first_tap;
            ++ky_y;
            ky_at += in_row;
            if (ky.last) { ky_y = 0; ky_at = 0; more = false; }
            ky = next(ky, d.taps_y);
          }
          kx = next(kx, d.taps_x);
        }
        cv = next(cv, d.red_vecs);
      }
      if (sending) {
        if (k.last) {
          more = true;
          col_x += PIX * d.stride_x;
          col_at += group_words;
          if (xg.last) {
            col_x = 0;
            col_at = 0;
            in_y += d.stride_y;
            row_at += stride_rows;
            if (y.last) {
              in_y = -d.pad_y;
              row_at = first_row;
              image_at += d.in_step;
              if (n.last) { image_at = 0; first_vec += d.group_vecs; }
              n = next(n, d.images);
            }
            y = next(y, d.rows);
          }
          xg = next(xg, d.cols);
        }
        k = next(k, d.period);
      }
      if (receiving) {
        ++r_word;
        if (r_left == 0) r_more = false;
        --r_left;
        if (r_step.last) {
          r_more = true;
          r_left = d.out_words - 1;
          out_row += d.out_vecs;
          if (r_xg.last && r_y.last) {
            out_row = 0;
            out_image += d.out_step;
            skip_image += d.skip_step;
            if (r_n.last) {
              out_image = (at_t)d.out_base;
              skip_image = (at_t)d.skip_base;
              r_first += d.out_words;
            }
            r_n = next(r_n, d.images);
          }
          if (r_xg.last) r_y = next(r_y, d.rows);
          r_xg = next(r_xg, d.cols);
          r_word = r_first;
        }
        r_step = next(r_step, d.period);
      }
      COUNT(++trips);
    }
    COUNT(write_channel_intel(features_trips, trips));
  }
}

/* PIX x LANE x VEC multiply-accumulates an iteration. Weights are double-buffered: while one part of the reduction is
 * used, the next (of this group, the next group or the next convolution) is loaded. All groups of a layer are one
 * loop, so nothing drains between them. Pooling runs through the same accumulators.
 *
 * II = 1: the accumulators are registers with one addition an iteration; `ivdep` on tiles holds because the two
 * buffers are disjoint and swap only at a part's end; a tile is one word of WPT banks, so load and use never compete.
 * How long a part lasts is one of four numbers that are known before the loop. */
SERVICE __kernel void array(void)
{
  __local wword_t tiles[2][WEIGHT_TILES][WPT];
  bool current = 0;
  for (;;) {
    const layer_t d = read_channel_intel(to_array);
    UNTIL_END(d);
    COUNT(int trips = 0);
    const int pixel_groups = d.op == OP_LOAD || d.op == OP_STORE ? 0 : d.images * d.rows * d.cols;
    const int part_steps = pixel_groups * d.part_acts, last_steps = pixel_groups * d.last_acts;
    const int first_words = d.parts == 1 ? d.last_words : d.part_words;     /* of the next group */
    const int ends_mid = max(part_steps, d.part_words), ends_before_last = max(part_steps, d.last_words);
    const int ends_group = max(last_steps, first_words), ends_layer = max(last_steps, d.next_words);
    counter_t part = counter(d.parts), group = counter(d.op == OP_LOAD ? 1 : d.groups);   /* a LOAD only fetches */
    bool before_last = d.parts == 2;
    int steps = part.last ? last_steps : part_steps;
    int load = !part.last ? (before_last ? d.last_words : d.part_words) : group.last ? d.next_words : first_words;
    int end = !part.last ? (before_last ? ends_before_last : ends_mid) : group.last ? ends_layer : ends_group;
    int j = 0;                         /* position in the part                    */
    bool part_done = end == 1;         /* known one step ahead                    */
    counter_t k = counter(d.acts);     /* step of the reduction                   */
    bool first = true;
    ushort use = 0;                    /* tile of this step                       */
    ushort tile = 0, bank = 0;         /* where the next loaded word goes         */
    acc_t acc;
    #pragma ivdep array(tiles)
    II1 for (int i = 0; i < d.array_trips; ++i) {
      if (j < load) {
        tiles[!current][tile][bank] = read_channel_intel(weight_ch);
        if (++bank == WPT) { bank = 0; ++tile; }
      }
      if (j < steps) {
        const act_t a = read_channel_intel(act_ch);
        wword_t w[WPT];
        UNROLL for (int q = 0; q < WPT; ++q) w[q] = tiles[current][use][q];
        UNROLL for (int p = 0; p < PIX; ++p) {
          if (d.op == OP_CONV) {
#ifdef MAC_PAIRS
            UNROLL for (int l = 0; l < LANE; l += 2) {
              int2 dot = 0;
              UNROLL for (int v = 0; v < VEC; ++v)
                dot += multiply_pair(a.p[p].h[v / CW].c[v % CW], w[(l * VEC + v) / WB].b[(l * VEC + v) % WB],
                                     w[((l + 1) * VEC + v) / WB].b[((l + 1) * VEC + v) % WB]);
              acc.p[p][l]     = NARROW(first ? dot.x : acc.p[p][l] + dot.x, ACC_BITS);
              acc.p[p][l + 1] = NARROW(first ? dot.y : acc.p[p][l + 1] + dot.y, ACC_BITS);
            }
#else
            UNROLL for (int l = 0; l < LANE; ++l) {
              int dot = 0;
              UNROLL for (int v = 0; v < VEC; ++v)
                dot += (int)a.p[p].h[v / CW].c[v % CW] * (int)w[(l * VEC + v) / WB].b[(l * VEC + v) % WB];
              acc.p[p][l] = NARROW(first ? dot : acc.p[p][l] + dot, ACC_BITS);
            }
#endif
          } else {
            UNROLL for (int v = 0; v < VEC; ++v) {
              const int x = a.p[p].h[v / CW].c[v % CW], old = acc.p[p][v];
              acc.p[p][v] = first ? x : d.op == OP_MAX ? max(x, old) : x + old;
            }
          }
        }
        if (k.last) write_channel_intel(acc_ch, acc);
        first = k.last;
        /* a group's parts cover the reduction once; a part of one pixel group uses its tiles once, else again and again.
         * Pooling counts past the tiles and reads none. */
        use = k.last || d.op != OP_CONV ? 0 : use + 1;
        k = next(k, d.acts);
      }
      ++j;
      if (part_done) {                               /* swap the buffers if one was loaded */
        j = 0;
        if (load) current = !current;
        tile = 0;
        bank = 0;
        use = 0;
        before_last = !part.last && part.left == 2;
        if (part.last) { group = next(group, d.groups); before_last = d.parts == 2; }
        part = next(part, d.parts);
        steps = part.last ? last_steps : part_steps;
        load = !part.last ? (before_last ? d.last_words : d.part_words) : group.last ? d.next_words : first_words;
        end = !part.last ? (before_last ? ends_before_last : ends_mid) : group.last ? ends_layer : ends_group;
        part_done = end == 1;
      } else {
        part_done = j == end - 1;
      }
      COUNT(++trips);
    }
    COUNT(write_channel_intel(array_trips, trips));
  }
}

/* Fixed-point scale and clamp: CW channels of PIX pixels an iteration. LOAD layers pass the image through. The words of
 * an accumulator and of its constants are shifted out, CW lanes at a time.
 * II = 1: nothing is carried but two counters and the registers that hold the current words. */
SERVICE __kernel void requant(void)
{
  for (;;) {
    const layer_t d = read_channel_intel(to_requant);
    UNTIL_END(d);
    COUNT(int trips = 0);
    const int per_group = d.images * d.rows * d.cols * d.out_words;
    const int total = d.op == OP_STORE ? 0 : d.outputs * d.out_words;
    int group_left = per_group;         /* words; too many for a counter_t */
    bool group_first = true;
    counter_t word = counter(d.out_words);
    bool word_first = true;
    par_t par, now;
    acc_t acc;
    II1 for (int i = 0; i < total; ++i) {
      res_t out;
      if (d.op == OP_LOAD) {
        out = read_channel_intel(image_ch);
      } else {
        if (group_first) par = read_channel_intel(param_ch);
        if (word_first) {
          acc = read_channel_intel(acc_ch);
          now = par;
        } else {
          UNROLL for (int l = 0; l < LANE - CW; ++l) {
            UNROLL for (int p = 0; p < PIX; ++p) acc.p[p][l] = acc.p[p][l + CW];
            now.offset[l] = now.offset[l + CW];
            now.multiplier[l] = now.multiplier[l + CW];
            now.shift[l] = now.shift[l + CW];
            now.tie[l] = now.tie[l + CW];
          }
        }
        UNROLL for (int c = 0; c < CW; ++c) {
          int columns = 0;                   /* a global pool leaves one sum for each of PIX columns */
          UNROLL for (int p = 0; p < PIX; ++p) columns += acc.p[p][c];
          UNROLL for (int p = 0; p < PIX; ++p)
            out.p[p].c[c] = requantise(d.op == OP_SUM ? columns : acc.p[p][c], now.multiplier[c], now.offset[c],
                                       now.shift[c], now.tie[c], d.increment, d.low, d.high);
        }
      }
      write_channel_intel(result_ch, out);
      group_left = group_first ? per_group - 1 : group_left - 1;
      group_first = group_left == 0;
      word_first = word.last;
      word = next(word, d.out_words);
      COUNT(++trips);
    }
    COUNT(write_channel_intel(requant_trips, trips));
  }
}

/* Writes what STORE layers send; its end is the end of the batch. counts: seven numbers for each layer of each run. */
TASK __kernel void sink(__global stored_t *restrict out, __global int *restrict counts)
{
  int at = 0;
  COUNT(int n = 0);
  for (;;) {
    const layer_t d = read_channel_intel(to_sink);
    if (d.op == OP_END) return;
    COUNT(int trips = 0);
    if (d.op == OP_STORE) {
      II1 for (int i = 0; i < d.outputs * d.acts; ++i) {
        stored_t word;
        word.v = read_channel_intel(store_ch);
        out[at + i] = word;
        COUNT(++trips);
      }
      at += d.outputs * d.acts;
    }
#ifdef COUNT_TRIPS
    counts[n++] = read_channel_intel(params_trips);
    counts[n++] = read_channel_intel(weights_trips);
    counts[n++] = read_channel_intel(former_trips);
    counts[n++] = read_channel_intel(features_trips);
    counts[n++] = read_channel_intel(array_trips);
    counts[n++] = read_channel_intel(requant_trips);
    counts[n++] = trips;
#endif
  }
}
