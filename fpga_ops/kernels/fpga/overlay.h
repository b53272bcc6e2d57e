/* Overlay: compile-time geometry, the layer descriptor and the words that travel on the channels.
 *
 * Set by the host with -D (fpga_ops/overlay/geometry.py):
 *   PIX    output pixels of one row computed together; odd, so that strides 1 and 2 never hit a bank twice
 *   VEC    input channels reduced in a cycle          LANE  output channels in a cycle, at least VEC
 *   CW     channels in a stored word, gcd(VEC, LANE)  WB    weight bytes that external memory delivers in a cycle
 *   MAP0_WORDS, MAP1_WORDS   depth of the two feature-map memories, in VEC x PIX bytes
 *   WEIGHT_TILES             LANE x VEC tiles in each of the two weight buffers
 *   *_DEPTH                  channel depths
 * Options: EMULATOR, HOST_LAUNCHED, COUNT_TRIPS, MAC_PAIRS (two products in one multiplier), BFP (block floating point).
 */
#pragma OPENCL EXTENSION cl_intel_channels : enable

#define NH  (VEC / CW)            /* stored words read together for each pixel          */
#define WPT (LANE * VEC / WB)     /* external-memory words in a weight tile             */
#define X_BIAS (64 * PIX)         /* keeps x positive, so that / and % by PIX are exact */

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
#else
#  define UNROLL _Pragma("unroll")
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
  int pre_shift, low, high;
  int add_first, add_second, add_offset, add_shift, add_low, add_high;
  int out_channels;                 /* block floating point: channels beyond are stored as zero            */
  int spare[8];
  int checksum;
} layer_t;

#define LAYER_WORDS 64

typedef struct { uchar c[CW]; }      cword_t;
typedef struct { cword_t h[NH]; }    vword_t;
typedef struct { vword_t p[PIX]; }   act_t;      /* one vector of channels for each pixel   */
typedef struct { int p[PIX][LANE]; } acc_t;      /* finished accumulators                   */
typedef struct { cword_t p[PIX]; }   res_t;      /* CW output channels of PIX pixels        */
typedef struct { char b[WB]; }       wword_t;
typedef struct { int bias[LANE]; short multiplier[LANE]; uchar shift[LANE]; uchar spare[LANE]; } par_t;
