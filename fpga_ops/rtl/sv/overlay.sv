// The overlay: blocks that interpret layer descriptors, so a network is data. docs/fpga-rtl.md has the picture.
//
//   fetch --descriptors--> image, constants, weights, maps (sender, receiver), array, requant, sink
//   maps --act--> array --acc--> requant --result--> maps;   weights --> array;   constants --> requant
//   image --> maps;   maps --store--> sink
//
// Ports are AXI4 without what is never used (IDs, locks, write bursts longer than a beat): five that read, of them
// `w` of WB / PB ports side by side, and one that writes. `start` begins a batch of `runs` runs of a program of `layers`
// descriptors; `done` lasts a cycle, with `status` 0 or 1 + the index of a descriptor that failed its checksum. `load`,
// between batches, brings the first words of weights and beats of constants onto the chip, where they stay; a batch may
// start when they are `loaded`.
module overlay import overlay_pkg::*; #(
  parameter int VEC = 32, LANE = 64, PIX = 7, WB = 64, TILES = 512, WEIGHT_DEPTH = 256, MAP_WORDS = 4096, FORM = PLAIN,
  ACC_BITS = 32, MUL_BITS = 31, RESIDENT = 0, RESIDENT_BLOCKS = 0, STACK = 0,
  localparam int CW = gcd(VEC, LANE), NH = VEC / CW, PB = WB < PORT ? WB : PORT, WPORTS = WB / PB,
  BLOCK = LANE * 16
) (
  input  logic clk, reset,
  input  logic load,
  input  logic [31:0] load_weights, load_constants,
  output logic loaded,
  input  logic start,
  input  logic [15:0] layers,
  input  logic [31:0] runs,
  input  logic [63:0] program_base, image_base, constants_base, out_base,
  input  logic [WPORTS-1:0][63:0] weights_base,
  output logic done,
  output logic [31:0] status,
  // reads: 0 program, 1 image, 2 constants
  output logic [2:0] arvalid,
  input  logic [2:0] arready,
  output logic [2:0][63:0] araddr,
  output logic [2:0][7:0] arlen,
  input  logic [2:0] rvalid,
  input  logic [2:0][PORT*8-1:0] rdata,
  output logic [WPORTS-1:0] w_arvalid,
  input  logic [WPORTS-1:0] w_arready,
  output logic [WPORTS-1:0][63:0] w_araddr,
  output logic [WPORTS-1:0][7:0] w_arlen,
  input  logic [WPORTS-1:0] w_rvalid,
  input  logic [WPORTS-1:0][PB*8-1:0] w_rdata,
  output logic awvalid,
  input  logic awready,
  output logic [63:0] awaddr,
  output logic wvalid,
  input  logic wready,
  output logic [PORT*8-1:0] wdata,
  input  logic bvalid,
  // for measurements: a layer's end, who waits for what, how full the queues are
  output logic layer_done,
  output logic [2:0] waits,               // array for weights, array for activations, requant for constants
  output logic [5:0][15:0] filled         // words in: image, constants (beats), weights, act, acc, result
);
  function automatic int gcd(int a, int b);
    int rest;
    while (b != 0) begin
      rest = a % b;
      a = b;
      b = rest;
    end
    return a;
  endfunction
  localparam int WORD = PIX * CW, SEND = PIX * VEC;
  localparam int STORED = SEND > PORT ? 1 << $clog2(SEND) : PORT;
  localparam int BLOCKS = 8;              // that take descriptors
  localparam int IMAGE = 0, CONSTANTS = 1, WEIGHTS = 2, SENDER = 3, RECEIVER = 4, ARRAY = 5, REQUANT = 6, SINK = 7;

  axi_read bus [3] ();
  axi_read #(.BYTES(PB)) w_bus [WPORTS] ();
  for (genvar i = 0; i < 3; i++) begin : reads
    assign {arvalid[i], araddr[i], arlen[i]} = {bus[i].arvalid, bus[i].araddr, bus[i].arlen};
    assign {bus[i].arready, bus[i].rvalid, bus[i].rdata} = {arready[i], rvalid[i], rdata[i]};
  end
  for (genvar i = 0; i < WPORTS; i++) begin : weight_reads
    assign {w_arvalid[i], w_araddr[i], w_arlen[i]} = {w_bus[i].arvalid, w_bus[i].araddr, w_bus[i].arlen};
    assign {w_bus[i].arready, w_bus[i].rvalid, w_bus[i].rdata} = {w_arready[i], w_rvalid[i], w_rdata[i]};
  end

  wire clear = reset || start;            // a batch starts with everything empty, whatever the last one left
  logic push, ending;
  layer_t pushed;
  logic [BLOCKS-1:0] full, valid, pop;
  layer_t [BLOCKS-1:0] layer;
  fetch fetches (
    .clk, .reset, .start, .base(program_base), .layers, .runs, .bus(bus[0]), .push, .blocked(|full), .layer(pushed),
    .status
  );
  for (genvar i = 0; i < BLOCKS; i++) begin : descriptors
    logic [15:0] unused_count;
    fifo #(.WIDTH(2048), .DEPTH(2)) queue (
      .clk, .reset(clear), .push, .in(pushed), .full(full[i]), .valid(valid[i]), .out(layer[i]), .pop(pop[i]),
      .count(unused_count)
    );
  end

  logic [1:0] here;
  assign loaded = &here;
  logic image_valid, image_pop, block_valid, block_pop, weight_valid, weight_pop, act_valid, act_pop;
  logic acc_valid, acc_pop, result_valid, result_pop, store_valid, store_pop, stored, finished;
  logic [WORD*8-1:0] image_word, result;
  logic [BLOCK*8-1:0] block;
  logic [WB*8-1:0] weight_word;
  logic [SEND*8-1:0] act, store_word;
  logic [PIX-1:0][LANE-1:0][31:0] acc;
  image #(.PIX(PIX), .VEC(VEC), .CW(CW), .STACK(STACK)) images (
    .clk, .reset(clear), .layer_valid(valid[IMAGE]), .next_layer(layer[IMAGE]), .layer_pop(pop[IMAGE]),
    .base(image_base), .bus(bus[1]), .valid(image_valid), .word(image_word), .pop(image_pop), .count(filled[0])
  );
  constants #(.BLOCK(BLOCK), .RESIDENT(RESIDENT_BLOCKS * BLOCK / PORT)) blocks (
    .clk, .reset(clear), .forget(reset), .load, .resident(load_constants), .loaded(here[0]),
    .layer_valid(valid[CONSTANTS]), .layer(layer[CONSTANTS]), .layer_pop(pop[CONSTANTS]),
    .base(constants_base), .bus(bus[2]), .valid(block_valid), .block, .pop(block_pop), .count(filled[1])
  );
  weights #(.WB(WB), .PB(PB), .DEPTH(WEIGHT_DEPTH), .RESIDENT(RESIDENT)) streams (
    .clk, .reset(clear), .forget(reset), .load, .resident(load_weights), .loaded(here[1]),
    .layer_valid(valid[WEIGHTS]), .layer(layer[WEIGHTS]), .layer_pop(pop[WEIGHTS]),
    .base(weights_base), .bus(w_bus), .valid(weight_valid), .word(weight_word), .pop(weight_pop), .count(filled[2])
  );
  maps #(.PIX(PIX), .CW(CW), .NH(NH), .WORDS(MAP_WORDS), .MUL_BITS(MUL_BITS)) memories (
    .clk, .reset(clear), .layer_valid({valid[RECEIVER], valid[SENDER]}), .layer({layer[RECEIVER], layer[SENDER]}),
    .layer_pop({pop[RECEIVER], pop[SENDER]}), .image_valid, .image_word, .image_pop, .result_valid,
    .result_word(result), .result_pop, .act_valid, .act, .act_pop, .store_valid, .store_word, .store_pop, .stored,
    .layer_done, .ending, .act_count(filled[3])
  );
  array #(.VEC(VEC), .LANE(LANE), .PIX(PIX), .WB(WB), .TILES(TILES), .FORM(FORM)) multipliers (
    .clk, .reset(clear), .layer_valid(valid[ARRAY]), .next_layer(layer[ARRAY]), .layer_pop(pop[ARRAY]), .weight_valid,
    .weight_word, .weight_pop, .act_valid, .act, .act_pop, .acc_valid, .acc, .acc_pop, .wants_weights(waits[0]),
    .wants_acts(waits[1]), .acc_count(filled[4])
  );
  requant #(.LANE(LANE), .CW(CW), .PIX(PIX), .ACC_BITS(ACC_BITS), .MUL_BITS(MUL_BITS)) requantiser (
    .clk, .reset(clear), .layer_valid(valid[REQUANT]), .next_layer(layer[REQUANT]), .layer_pop(pop[REQUANT]),
    .block_valid, .block, .block_pop, .acc_valid, .acc, .acc_pop, .result_valid, .result, .result_pop,
    .wants_constants(waits[2]), .result_count(filled[5])
  );
  sink #(.WORD(SEND), .STORED(STORED)) writer (
    .clk, .reset(clear), .layer_valid(valid[SINK]), .layer(layer[SINK]), .layer_pop(pop[SINK]), .base(out_base),
    .word_valid(store_valid), .word_pop(store_pop), .word(store_word), .awvalid, .awready, .awaddr, .wvalid, .wready,
    .wdata, .bvalid, .stored, .done(finished)
  );
  // sink and receiver come to the batch's END in either order
  logic written;
  wire both = (finished || written) && ending;
  always_ff @(posedge clk) begin
    written <= (finished || written) && !both && !clear;
    done <= both && !clear;
  end
endmodule
