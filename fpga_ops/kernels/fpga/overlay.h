/* Overlay: compile-time geometry, the layer descriptor and the words that travel on the channels.
 *
 * Set by the host with -D (fpga_ops/overlay/geometry.py):
 *   PIX    output pixels of one row computed together; odd and at most 15: strides 1 and 2 never hit a bank twice
 *   VEC    input channels reduced in a cycle          LANE  output channels in a cycle, at least VEC
 *   CW     channels in a stored word, gcd(VEC, LANE)  WB    weight bytes that external memory delivers in a cycle
 *   MAP0_WORDS, MAP1_WORDS   depth of the two feature-map memories, in VEC x PIX bytes
 *   WEIGHT_TILES             LANE x VEC tiles in each of the two weight buffers
 *   ACC_BITS, MUL_BITS       bits of an accumulator (signed) and of a requantiser's multiplier (unsigned)
 *   STORED_BYTES             a power of two that holds VEC x PIX bytes: what a result takes in external memory
 *   *_DEPTH                  channel depths
 * Options: EMULATOR (no unrolling), HOST_LAUNCHED, COUNT_TRIPS, MAC_PAIRS (two products in one multiplier).
 */
#pragma OPENCL EXTENSION cl_intel_channels : enable

#define NH  (VEC / CW)            /* stored words read together for each pixel          */
#define WPT (LANE * VEC / WB)     /* external-memory words in a weight tile             */
#define BYTES 64                  /* of an external-memory word of images               */
#define MAX_STEP 8                /* bytes from a pixel's window to the next, at most   */
#define FORMED_WORDS ((CW * PIX + BYTES - 1) / BYTES)    /* external-memory words of a packed result word */
#define LARGER(a, b) ((a) > (b) ? (a) : (b))
/* bytes that `former` holds: a word before the window, the windows of PIX pixels, a word beyond */
#define SPAN LARGER(FORMED_WORDS * BYTES, 2 * BYTES + LARGER(BYTES, (PIX - 1) * MAX_STEP + VEC))

/* One array a bank: an array of PIX banks would be rounded up to a power of two. M(bank) for every bank. */
#define BANKS_1(M) M(0)
#define BANKS_3(M) BANKS_1(M) M(1) M(2)
#define BANKS_5(M) BANKS_3(M) M(3) M(4)
#define BANKS_7(M) BANKS_5(M) M(5) M(6)
#define BANKS_9(M) BANKS_7(M) M(7) M(8)
#define BANKS_11(M) BANKS_9(M) M(9) M(10)
#define BANKS_13(M) BANKS_11(M) M(11) M(12)
#define BANKS_15(M) BANKS_13(M) M(13) M(14)
#define BANKS_(n, M) BANKS_##n(M)
#define BANKS(n, M) BANKS_(n, M)
#define EACH_BANK(M) BANKS(PIX, M)

#define TASK    __attribute__((max_global_work_dim(0))) __attribute__((uses_global_work_offset(0)))
#ifdef HOST_LAUNCHED              /* for the emulator, whose idle autorun kernels spin for ever */
#  define SERVICE TASK
#  define UNTIL_END(d) if ((d).op == OP_END) return
#else
#  define SERVICE TASK __attribute__((autorun))
#  define UNTIL_END(d) if ((d).op == OP_END) continue
#endif
#ifdef EMULATOR                   /* unrolling has no meaning there and only slows the build */
#  define UNROLL
#  define II1
#else
#  define UNROLL _Pragma("unroll")
#  define II1 _Pragma("ii 1")
#endif
#ifdef COUNT_TRIPS
#  define COUNT(x) x
#else
#  define COUNT(x)
#endif

enum { OP_END, OP_LOAD, OP_CONV, OP_MAX, OP_SUM, OP_STORE };

/* One layer: 64 words. The host computes every derived quantity, so that no kernel divides. The order is that of
 * FIELDS in fpga_ops/overlay/descriptor.py (a test compares the two). */
typedef struct {
  /* what */
  int op;
  int groups;       /* output-channel groups: LANE channels (convolution) or VEC channels (the rest)   */
  int images;       /* images interleaved in this program                                              */
  int rows, cols;   /* output rows; PIX-pixel groups in an output row                                  */
  int outputs;      /* pixel groups of the whole layer: groups * images * rows * cols                  */
  int taps_y, taps_x, stride_y, stride_x, pad_y, pad_x, pad_value;
  int tap_step;     /* pixels from a tap to the next in x: PIX in a global pool, 1 elsewhere            */
  /* source map */
  int in_mem, in_base, in_step;     /* memory, first word, words from an image to the next             */
  int in_h, in_w, in_cols, in_vecs; /* pixels; pixel groups in a row; vectors in a pixel               */
  int red_vecs, group_vecs;           /* vectors reduced in each tap; first vector moves so much a group */
  /* schedule */
  int acts;         /* array steps of a pixel group: taps * red_vecs                                   */
  int period;       /* iterations of a pixel group: max(acts, out_words)                               */
  int lag;          /* iterations from a pixel group's last send to its first result                   */
  int trips;        /* iterations of `features`                                                        */
  int array_trips;  /* iterations of `array`                                                           */
  /* result map */
  int out_mem, out_base, out_step, out_vecs;
  int out_words;    /* CW-channel words that a pixel group yields                                      */
  int add, skip_base, skip_step;    /* residual operand, in the memory that is not in_mem              */
  /* weights: a group's reduction is loaded in `parts`; all but the last have part_acts tiles          */
  int w_base, w_words;              /* first word; words of the whole layer                            */
  int parts, part_acts, last_acts, part_words, last_words;
  int next_words;                   /* words of the next convolution's first part                      */
  int par_base;
  /* arithmetic (fpga_ops/ir/reference.py) */
  int increment, low, high;
  int add_first, add_second, add_offset_low, add_offset_high, add_shift, add_tie, add_increment, add_low, add_high;
  /* a LOAD's image in external memory, words of BYTES bytes; byte_step 0: packed by the host               */
  int row_bytes;                    /* of a row of the image                                               */
  int byte_step, byte_taps, byte_pad;   /* from a pixel's window to the next; of a window; before the row  */
  int load_words, load_size;        /* words that are read; words from this LOAD's data to the next's      */
  int checksum;
} layer_t;

#define LAYER_WORDS 64

/* Counts n iterations, 1 <= n < 65536, again and again; `last` is known one iteration ahead. */
typedef struct { ushort left; bool last; } counter_t;

counter_t counter(int n)
{
  const counter_t c = {(ushort)(n - 1), n == 1};
  return c;
}

counter_t next(counter_t c, int n)
{
  const counter_t down = {(ushort)(c.left - 1), c.left == 1};
  return c.last ? counter(n) : down;
}

#if MAP0_WORDS <= 65536 && MAP1_WORDS <= 65536
typedef ushort at_t;              /* an address in a map memory; sums wrap, what is used is in range */
#else
typedef uint at_t;
#endif

typedef struct { uchar c[CW]; }      cword_t;
typedef struct { cword_t h[NH]; }    vword_t;
typedef struct { vword_t p[PIX]; }   act_t;      /* one vector of channels for each pixel   */
typedef struct { int p[PIX][LANE]; } acc_t;      /* finished accumulators                   */
typedef struct { cword_t p[PIX]; }   res_t;      /* CW output channels of PIX pixels        */
typedef union { act_t v; uchar b[STORED_BYTES]; } stored_t;
typedef struct { uchar b[BYTES]; }   bytes_t;
typedef struct { char b[WB]; }       wword_t;
typedef struct { long offset[LANE]; uint multiplier[LANE]; uchar shift[LANE], tie[LANE], spare[2 * LANE]; } par_t;
