// Reads the program once to check every descriptor's checksum, then sends it `runs` times to all blocks, then an END.
// A corrupt descriptor stops everything before the first layer: `status` becomes 1 + its index.
module fetch import overlay_pkg::*; (
  input  logic clk, reset,
  input  logic start,
  input  logic [63:0] base,
  input  logic [15:0] layers,
  input  logic [31:0] runs,
  axi_read.reader bus,
  output logic push,                      // a descriptor for every block; none of them may be full
  input  logic blocked,
  output layer_t layer,
  output logic [31:0] status
);
  localparam int BEATS = 256 / PORT;      // of a descriptor
  localparam int STEP = 2;                // words that the check takes in a cycle
  typedef enum logic [2:0] {IDLE, CHECK, AGAIN, SEND, END} state_t;
  state_t state;
  layer_t held;
  logic [2:0] beat;                       // beats held of the next descriptor
  logic [5:0] word;
  logic [31:0] sum, next_sum, left_runs;
  logic [15:0] index;
  logic bad, job, job_ready, valid, pop;
  logic [PORT*8-1:0] data;
  logic [15:0] unused_count;

  wire whole = beat == 3'(BEATS);
  wire last_word = word == 6'(64 - STEP);
  wire last_layer = index + 16'd1 == layers;
  wire checked = state == CHECK && whole && last_word;
  wire sent = state == SEND && whole && !blocked;
  wire took = checked || sent;

  assign push = sent || (state == END && !blocked);
  assign pop = valid && (!whole || took);
  assign job = state == AGAIN || start;
  always_comb begin
    layer = held;
    if (state == END) layer[F_OP] = 32'(OP_END);
    next_sum = sum;
    for (int i = 0; i < STEP; i++)
      if (word + 6'(i) != 6'(F_CHECKSUM)) next_sum = {next_sum[26:0], next_sum[31:27]} + held[word + 6'(i)];
    bad = held[F_CHECKSUM] != next_sum;
  end
  always_ff @(posedge clk) begin
    if (pop) held <= {data, held[63:PORT/4]};
    if (took) beat <= pop ? 3'd1 : 3'd0;
    else if (pop) beat <= beat + 3'd1;
    case (state)
      IDLE: if (start) begin
        state <= CHECK;
        index <= '0;
        word <= '0;
        sum <= 32'd1;
        status <= '0;
        left_runs <= runs;
      end
      CHECK: if (whole) begin
        word <= word + 6'(STEP);
        sum <= last_word ? 32'd1 : next_sum;
        if (last_word) begin
          if (bad && status == 0) status <= 32'(index) + 32'd1;
          index <= last_layer ? 16'd0 : index + 16'd1;
          if (last_layer) state <= (bad || status != 0) ? END : AGAIN;
        end
      end
      AGAIN: if (job_ready) begin
        state <= SEND;
        left_runs <= left_runs - 32'd1;
      end
      SEND: if (sent) begin
        index <= last_layer ? 16'd0 : index + 16'd1;
        if (last_layer) state <= left_runs == 0 ? END : AGAIN;
      end
      default: if (!blocked) state <= IDLE;
    endcase
    if (reset) begin
      state <= IDLE;
      beat <= '0;
    end
  end
  axi_reader #(.BYTES(PORT), .DEPTH(2 * BURST)) reader (
    .clk, .reset, .job, .job_ready, .start(base), .beats(32'(layers) * BEATS),
    .bus, .valid, .data, .pop, .count(unused_count)
  );
endmodule
