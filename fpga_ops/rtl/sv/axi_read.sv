// A read port of external memory: AXI4 without what is never used. Bursts are asked for, their beats come in order.
interface axi_read #(parameter int BYTES = 64);
  logic arvalid, arready, rvalid;
  logic [63:0] araddr;
  logic [7:0] arlen;
  logic [BYTES*8-1:0] rdata;
  modport reader (output arvalid, araddr, arlen, input arready, rvalid, rdata);
endinterface
