// An axi_reader the first `resident` words of whose memory stay on the chip: `load` reads them from `base` on, and until
// `loaded` nothing else must be asked for. A job takes what it can from there, the rest from outside, in order.
module resident_reader #(parameter int BYTES = 64, DEPTH = 64, RESIDENT = 0) (
  input  logic clk, reset, forget,        // forget: nothing is on the chip
  input  logic load,
  input  logic [31:0] resident,
  output logic loaded,
  input  logic [63:0] base,
  input  logic job,                       // with job_ready: read `beats` words from word `first` on
  output logic job_ready,
  input  logic [31:0] first, beats,
  axi_read.reader bus,
  output logic valid,
  output logic [BYTES*8-1:0] data,
  input  logic pop,
  output logic [15:0] count
);
  localparam int SHIFT = $clog2(BYTES);
  logic ask, ready, outside_valid, outside_pop;
  logic [63:0] start;
  logic [31:0] asked;
  logic [BYTES*8-1:0] outside;
  logic [15:0] waiting;
  axi_reader #(.BYTES(BYTES), .DEPTH(DEPTH)) reader (
    .clk, .reset, .job(ask), .job_ready(ready), .start, .beats(asked), .bus, .valid(outside_valid), .data(outside), .pop(outside_pop), .count(waiting)
  );
  if (RESIDENT == 0) begin : none
    wire unused = ^{forget, load, resident};
    assign loaded = 1'b1;
    assign {ask, job_ready, asked} = {job, ready, beats};
    assign start = base + (64'(first) << SHIFT);
    assign {valid, data, outside_pop, count} = {outside_valid, outside, pop, waiting};
  end else begin : held
    localparam int BITS = $clog2(RESIDENT), AHEAD = 8;
    (* ram_style = "ultra" *) logic [BYTES*8-1:0] memory [RESIDENT];
    logic [BYTES*8-1:0] read, found, late [2];
    logic [31:0] here, filled;            // words on the chip; of them, while they come
    logic filling, asking;                // asking: the words to keep were asked for
    logic [31:0] chip_left, outside_left; // of the job under way
    logic [BITS-1:0] address;
    logic [1:0] moving, from_chip;        // words on their way to the queue
    logic next_valid, next_pop, next_full, unused_full;
    logic [15:0] held_words, jobs;
    logic [BITS-1:0] next_address;
    logic [31:0] next_chip, next_outside;

    wire [31:0] reach = here > first ? here - first : 32'd0;
    wire [31:0] on_chip = beats < reach ? beats : reach;
    wire accepted = job && job_ready;
    wire room = held_words + 16'(moving[0]) + 16'(moving[1]) < 16'(AHEAD);
    wire take_chip = room && chip_left != 0;
    wire take_outside = room && chip_left == 0 && outside_left != 0 && outside_valid;
    wire last = filled + 32'd1 == here;
    wire unused_jobs = ^jobs;
    assign loaded = !filling && !load;
    assign job_ready = ready && !next_full && loaded;
    assign ask = filling ? ready && filled == 0 && !outside_valid && !asking : accepted && beats != on_chip;
    assign start = filling ? base : base + (64'(first + on_chip) << SHIFT);
    assign asked = filling ? here : beats - on_chip;
    assign outside_pop = filling ? outside_valid : take_outside;
    assign next_pop = next_valid && chip_left == 0 && outside_left == 0;
    assign count = held_words + waiting;
    fifo #(.WIDTH(64 + BITS), .DEPTH(4)) queue (
      .clk, .reset, .push(accepted), .in({BITS'(first), on_chip, beats - on_chip}), .full(next_full), .valid(next_valid),
      .out({next_address, next_chip, next_outside}), .pop(next_pop), .count(jobs)
    );
    always_ff @(posedge clk) begin
      if (load) begin
        filling <= resident != 0;
        here <= resident < 32'(RESIDENT) ? resident : 32'(RESIDENT);
        filled <= '0;
        asking <= 1'b0;
      end else if (filling) begin
        if (ask) asking <= 1'b1;
        if (outside_valid) begin
          filled <= filled + 32'd1;
          if (last) filling <= 1'b0;
        end
      end
      if (filling && outside_valid) memory[BITS'(filled)] <= outside;
      read <= memory[address];
      found <= read;
      late[0] <= outside;
      late[1] <= late[0];
      moving <= {moving[0], take_chip || take_outside};
      from_chip <= {from_chip[0], take_chip};
      if (next_pop) {address, chip_left, outside_left} <= {next_address, next_chip, next_outside};
      else if (take_chip) begin
        address <= address + 1'b1;
        chip_left <= chip_left - 32'd1;
      end else if (take_outside) outside_left <= outside_left - 32'd1;
      if (reset) begin
        moving <= '0;
        chip_left <= '0;
        outside_left <= '0;
      end
      if (forget) begin
        filling <= 1'b0;
        here <= '0;
      end
    end
    fifo #(.WIDTH(BYTES*8), .DEPTH(AHEAD)) words (
      .clk, .reset, .push(moving[1]), .in(from_chip[1] ? found : late[1]), .full(unused_full), .valid, .out(data), .pop,
      .count(held_words)
    );
  end
endmodule
