// Test bench of the overlay: clock, external memory, and what the host does; a C interface for fpga_ops/rtl/simulation.py.
//
// External memory is a few channels. A channel delivers so many bytes a cycle on average, `latency` cycles after it was
// asked, bursts of a port in order, a beat of each of its ports in turn. Port i of the weights is on channel i mod channels, the others are on
// the last one. It has 16 banks of open rows: a burst in a row that is not open costs
// `row_miss` cycles in which the channel delivers nothing, and so does a refresh. `stall` is the share of cycles in
// which it does not accept a request or holds data back, at random: for tests of back-pressure.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "Voverlay.h"
#include "verilated.h"

namespace {

constexpr int PORT = 64;
constexpr int READERS = 3;  // program, image, constants
constexpr int PB = WB < PORT ? WB : PORT;
constexpr int WPORTS = WB / PB;
constexpr int PORTS = READERS + WPORTS;
constexpr int WAITS = 3, QUEUES = 6, RECORD = 1 + WAITS + QUEUES;
constexpr int IMAGE = 1;
enum { HANGS = -1, OUT_OF_BOUNDS = -2 };

struct Timing {
  int64_t channels = 1, latency = 0, row_bytes = 0, row_miss = 0, refresh_every = 0, refresh_for = 0;
  double bytes_per_cycle = 1e9, stall = 0.0;
};

struct Burst {
  uint64_t address;
  int beats;
  int64_t due;
};

struct Port {
  std::vector<uint8_t> own;
  const uint8_t* data = nullptr;
  size_t size = 0;
  uint64_t base = 0;
  std::deque<Burst> bursts;
};

struct Channel {
  double tokens = 0.0;
  int64_t free_at = 0;
  int64_t open[16];
  int turn = 0;
  Channel() { std::fill(open, open + 16, -1); }
};

template <class T> uint8_t* bytes(T& signal) { return reinterpret_cast<uint8_t*>(&signal); }
template <class T> bool bit(T& signal, int i) { return bytes(signal)[i / 8] >> (i % 8) & 1; }
template <class T> void set_bit(T& signal, int i, bool on) {
  uint8_t& byte = bytes(signal)[i / 8];
  byte = uint8_t((byte & ~(1 << (i % 8))) | (int(on) << (i % 8)));
}
template <class V, class T> V item(T& signal, int i) {
  V value;
  std::memcpy(&value, bytes(signal) + i * sizeof(V), sizeof(V));
  return value;
}

struct Bench {
  VerilatedContext context;
  std::unique_ptr<Voverlay> top{new Voverlay(&context)};
  Timing timing;
  Port ports[PORTS];
  std::vector<Channel> channels{1};
  std::mt19937 random{1};
  bool outside = false;

  Bench() {
    for (int i = 0; i < PORTS; ++i) ports[i].base = uint64_t(i + 1) << 40;
    top->reset = 1;
    for (int i = 0; i < 4; ++i) tick();
    top->reset = 0;
  }
  void tick() {
    top->clk = 0;
    top->eval();
    top->clk = 1;
    top->eval();
  }
  bool held() { return timing.stall > 0 && random() < timing.stall * 4294967296.0; }
  Channel& channel(int port) {
    return port < READERS ? channels.back() : channels[size_t(port - READERS) % channels.size()];
  }
  bool deliver(int i, int64_t now) {  // a beat on port i, or none
    const bool weights = i >= READERS;
    const int at = weights ? i - READERS : i, width = weights ? PB : PORT;
    Port& port = ports[i];
    Channel& memory = channel(i);
    bool valid = false;
    if (!port.bursts.empty() && port.bursts.front().due <= now && memory.free_at <= now && memory.tokens >= width &&
        !held()) {
      Burst& burst = port.bursts.front();
      bool here = true;
      if (timing.row_bytes) {
        const int64_t row = int64_t(burst.address) / timing.row_bytes;
        if (memory.open[row % 16] != row) {
          memory.open[row % 16] = row;
          memory.free_at = now + timing.row_miss;
          here = timing.row_miss == 0;
        }
      }
      if (here) {
        uint8_t* to = weights ? bytes(top->w_rdata) + at * PB : bytes(top->rdata) + at * PORT;
        const uint64_t from = burst.address - port.base;
        std::memset(to, 0, size_t(width));
        if (from < port.size) std::memcpy(to, port.data + from, std::min<size_t>(size_t(width), port.size - from));
        else outside = true;
        memory.tokens -= width;
        burst.address += uint64_t(width);
        if (--burst.beats == 0) port.bursts.pop_front();
        valid = true;
      }
    }
    if (weights) set_bit(top->w_rvalid, at, valid);
    else set_bit(top->rvalid, at, valid);
    return valid;
  }

  // Takes the requests of this cycle.
  void accept(int64_t now) {
    for (int i = 0; i < PORTS; ++i) {
      const bool weights = i >= READERS;
      const int at = weights ? i - READERS : i;
      if (weights ? bit(top->w_arvalid, at) && bit(top->w_arready, at) : bit(top->arvalid, at) && bit(top->arready, at)) {
        const uint64_t address = weights ? item<uint64_t>(top->w_araddr, at) : item<uint64_t>(top->araddr, at);
        const int beats = 1 + (weights ? item<uint8_t>(top->w_arlen, at) : item<uint8_t>(top->arlen, at));
        if (address % 4096 + uint64_t(beats) * uint64_t(weights ? PB : PORT) > 4096) outside = true;  // the AXI rule
        ports[i].bursts.push_back({address, beats, now + timing.latency});
      }
    }
  }
  void memory(int64_t now) {
    for (Channel& memory : channels) {
      memory.tokens = std::min(memory.tokens + timing.bytes_per_cycle, timing.bytes_per_cycle + 4096.0);
      if (timing.refresh_every && now % timing.refresh_every == 0) memory.free_at = now + timing.refresh_for;
    }
    for (Channel& memory : channels)
      for (int k = 0, first = memory.turn, served = 0; k < PORTS; ++k) {
        const int i = (first + k) % PORTS;
        if (&channel(i) == &memory && deliver(i, now) && !served++) memory.turn = i + 1;
      }
    for (int i = 0; i < READERS; ++i) set_bit(top->arready, i, !held());
    for (int i = 0; i < WPORTS; ++i) set_bit(top->w_arready, i, !held());
  }
  void bases() {
    for (Port& port : ports) port.bursts.clear();
    channels.assign(size_t(timing.channels), Channel());
    outside = false;
    top->program_base = ports[0].base;
    top->image_base = ports[IMAGE].base;
    top->constants_base = ports[2].base;
    for (int i = 0; i < WPORTS; ++i) std::memcpy(bytes(top->weights_base) + 8 * i, &ports[READERS + i].base, 8);
  }

  // Brings words of weights and beats of constants onto the chip; returns its cycles, or HANGS or OUT_OF_BOUNDS.
  int64_t load(uint32_t weights, uint32_t constants, int64_t patience) {
    bases();
    top->load_weights = weights;
    top->load_constants = constants;
    for (int64_t now = 0; now < patience; ++now) {
      top->load = now == 0;
      memory(now);
      accept(now);
      tick();
      if (top->loaded) return outside ? int64_t(OUT_OF_BOUNDS) : now + 1;
    }
    return HANGS;
  }

  int run(int layers, int runs, uint8_t* out, size_t out_size, int64_t* records, int64_t patience, int64_t* totals) {
    std::fill_n(records, size_t(layers) * size_t(runs) * RECORD, 0);
    bases();
    top->layers = uint16_t(layers);
    top->runs = uint32_t(runs);
    const uint64_t out_base = uint64_t(PORTS + 1) << 40;
    top->out_base = out_base;
    std::deque<int64_t> acknowledge;
    std::deque<uint64_t> addresses;
    int64_t done_layers = 0, progress = 0, begun = 0;
    for (int64_t now = 0;; ++now) {
      top->start = now == 0;
      memory(now);
      top->awready = !held();
      top->wready = (!addresses.empty() || (top->awvalid && top->awready)) && channels.back().tokens >= PORT && !held();
      top->bvalid = !acknowledge.empty() && acknowledge.front() <= now;
      if (top->bvalid) acknowledge.pop_front();
      // what is taken at the coming edge
      if (!begun && bit(top->arvalid, IMAGE) && bit(top->arready, IMAGE)) begun = now;
      accept(now);
      if (top->awvalid && top->awready) addresses.push_back(top->awaddr);
      if (top->wvalid && top->wready) {
        const uint64_t at = addresses.front() - out_base;
        addresses.pop_front();
        if (at + PORT <= out_size) std::memcpy(out + at, bytes(top->wdata), PORT);
        else outside = true;
        channels.back().tokens -= PORT;
        acknowledge.push_back(now + timing.latency);
      }
      tick();
      if (done_layers < int64_t(layers) * runs) {
        int64_t* record = records + done_layers * RECORD;
        for (int i = 0; i < WAITS; ++i) record[1 + i] += top->waits >> i & 1;
        for (int i = 0; i < QUEUES; ++i)
          record[1 + WAITS + i] = std::max(record[1 + WAITS + i], int64_t(item<uint16_t>(top->filled, i)));
        if (top->layer_done) {
          record[0] = now;
          ++done_layers;
          progress = now;
        }
      }
      if (top->done) {
        totals[0] = now;
        totals[1] = begun;
        return outside ? OUT_OF_BOUNDS : int(top->status);
      }
      if (now - progress > patience) return HANGS;
    }
  }
};

}  // namespace

extern "C" {

int rtl_record() { return RECORD; }

void* rtl_open() { return new Bench; }

void rtl_close(void* bench) { delete static_cast<Bench*>(bench); }

// Constant memory of a port: 0 program, 2 constants, 3... weights.
void rtl_constant(void* bench, int port, const uint8_t* data, size_t size) {
  Port& to = static_cast<Bench*>(bench)->ports[port];
  to.own.assign(data, data + size);
  to.data = to.own.data();
  to.size = size;
}

void rtl_timing(void* bench, const int64_t* whole, const double* real) {
  Timing& t = static_cast<Bench*>(bench)->timing;
  t.channels = whole[0];
  t.latency = whole[1];
  t.row_bytes = whole[2];
  t.row_miss = whole[3];
  t.refresh_every = whole[4];
  t.refresh_for = whole[5];
  t.bytes_per_cycle = real[0];
  t.stall = real[1];
}

// Words of weights and beats of constants that are to stay on the chip, from the start of their memories.
int64_t rtl_load(void* bench, uint32_t weights, uint32_t constants, int64_t patience) {
  return static_cast<Bench*>(bench)->load(weights, constants, patience);
}

// One batch; records: int64[runs, layers, rtl_record()], totals: cycles, and the cycle of the first request for images.
// Returns what the overlay's status says, or HANGS or OUT_OF_BOUNDS.
int rtl_run(void* bench, int layers, int runs, const uint8_t* image, size_t image_size, uint8_t* out, size_t out_size,
            int64_t* records, int64_t patience, int64_t* totals) {
  Bench& b = *static_cast<Bench*>(bench);
  b.ports[IMAGE].data = image;
  b.ports[IMAGE].size = image_size;
  return b.run(layers, runs, out, out_size, records, patience, totals);
}
}
