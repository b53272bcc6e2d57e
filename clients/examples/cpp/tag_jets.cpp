// Tags jets with a model of a Triton server from C++, in the order of calls that CMSSW's SonicTriton makes:
// readiness and repository index of the server; metadata and configuration of the model; statistics; asynchronous
// inference with a deadline, inline or through system shared memory; statistics again.
//
// Input: float32 tensors of one model input, one row after the other, on standard input. Output: one JSON object.
// Exit codes: 0 answered, 1 wrong use or input, 2 the server refused or broke, 3 the deadline passed.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "kserve.grpc.pb.h"
#include "shared_memory.h"

namespace {

using inference::GRPCInferenceService;
using Clock = std::chrono::system_clock;
using Milliseconds = std::chrono::milliseconds;

constexpr Milliseconds kControlTimeout{10000};
constexpr Milliseconds kBooksTimeout{1000};  // the server answers first and counts afterwards
constexpr const char* kAdminHeader = "triton-grpc-protocol-admin-key";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct ServerError : std::runtime_error {
  ServerError(const std::string& what, const grpc::Status& status)
      : std::runtime_error(what + ": status " + std::to_string(status.error_code()) + ", " + status.error_message()),
        code(status.error_code()) {}
  grpc::StatusCode code;
};

struct Options {
  std::string server;
  std::string model;
  std::string version;
  Milliseconds deadline{10000};
  bool shared_memory = false;
  std::string admin_key;  // of the server's owner, who alone may register shared memory and see the index
};

Options read_options(int count, char** values) {
  const std::string usage =
      "usage: tag_jets HOST:PORT MODEL [--version N] [--deadline-ms N] [--shared-memory] [--admin-key-file FILE] < rows";
  if (count < 3) throw UsageError(usage);
  Options options;
  options.server = values[1];
  options.model = values[2];
  for (int i = 3; i < count; ++i) {
    const std::string name = values[i];
    if (name == "--shared-memory") {
      options.shared_memory = true;
      continue;
    }
    if (i + 1 == count) throw UsageError(name + " is unknown or has no value; " + usage);
    const std::string value = values[++i];
    if (name == "--version") {
      options.version = value;
    } else if (name == "--deadline-ms") {
      std::size_t read = 0;
      long milliseconds = 0;
      try {
        milliseconds = std::stol(value, &read);
      } catch (const std::logic_error&) {
      }
      if (read != value.size() || milliseconds < 1) throw UsageError("--deadline-ms: expected 1 or more, got " + value);
      options.deadline = Milliseconds(milliseconds);
    } else if (name == "--admin-key-file") {
      std::ifstream file(value);
      if (!(file >> options.admin_key)) throw UsageError("--admin-key-file: no key in " + value);
    } else {
      throw UsageError(name + " is unknown; " + usage);
    }
  }
  return options;
}

// The connection to one server. Every method makes one call and throws ServerError when it is refused.
class Server {
 public:
  explicit Server(const Options& options) : options_(options) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    const std::string host = options.server.substr(0, options.server.rfind(':'));
    if (host == "localhost" || host.rfind("127.", 0) == 0 || host == "[::1]" || host.find('.') == std::string::npos) {
      arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // a site's proxy cannot reach this machine
    }
    stub_ = GRPCInferenceService::NewStub(
        grpc::CreateCustomChannel(options.server, grpc::InsecureChannelCredentials(), arguments));
  }

  GRPCInferenceService::Stub& stub() { return *stub_; }

  void prepare(grpc::ClientContext& context, Milliseconds timeout) const {
    context.set_deadline(Clock::now() + timeout);
    if (!options_.admin_key.empty()) context.AddMetadata(kAdminHeader, options_.admin_key);
  }

  template <typename Request, typename Response>
  Response ask(grpc::Status (GRPCInferenceService::Stub::*method)(grpc::ClientContext*, const Request&, Response*),
               const Request& request, const std::string& what) {
    grpc::ClientContext context;
    prepare(context, kControlTimeout);
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) throw ServerError(what, status);
    return response;
  }

  template <typename Request>
  Request of_model() const {
    Request request;
    request.set_name(options_.model);
    request.set_version(options_.version);
    return request;
  }

 private:
  const Options& options_;
  std::unique_ptr<GRPCInferenceService::Stub> stub_;
};

// The server's own sums for the model.
struct Statistics {
  std::uint64_t requests = 0, success_ns = 0, queue_ns = 0, infer_ns = 0;

  Statistics operator-(const Statistics& earlier) const {
    return {requests - earlier.requests, success_ns - earlier.success_ns, queue_ns - earlier.queue_ns,
            infer_ns - earlier.infer_ns};
  }
};

Statistics read_statistics(Server& server) {
  const auto said = server.ask(&GRPCInferenceService::Stub::ModelStatistics,
                               server.of_model<inference::ModelStatisticsRequest>(), "statistics");
  Statistics sum;
  for (const auto& row : said.model_stats()) {
    sum.requests += row.inference_stats().success().count();
    sum.success_ns += row.inference_stats().success().ns();
    sum.queue_ns += row.inference_stats().queue().ns();
    sum.infer_ns += row.inference_stats().compute_infer().ns();
  }
  return sum;
}

// Statistics since `before`, once the server has counted as many requests, or its time for that is up.
Statistics statistics_since(Server& server, const Statistics& before, std::uint64_t requests) {
  const auto end = std::chrono::steady_clock::now() + kBooksTimeout;
  Statistics since = read_statistics(server) - before;
  while (since.requests < requests && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(Milliseconds(5));
    since = read_statistics(server) - before;
  }
  return since;
}

// Shared memory that the server knows for as long as this object lives.
class Registration {
 public:
  Registration(Server& server, SharedMemory& memory) : server_(server), memory_(memory) {
    inference::SystemSharedMemoryRegisterRequest request;
    request.set_name(memory.name());
    request.set_key(memory.key());
    request.set_byte_size(memory.byte_size());
    server.ask(&GRPCInferenceService::Stub::SystemSharedMemoryRegister, request, "registering shared memory");
  }
  ~Registration() {
    inference::SystemSharedMemoryUnregisterRequest request;
    request.set_name(memory_.name());
    try {
      server_.ask(&GRPCInferenceService::Stub::SystemSharedMemoryUnregister, request, "unregistering shared memory");
    } catch (const ServerError& error) {
      std::cerr << error.what() << "\n";
    }
  }
  Registration(const Registration&) = delete;
  Registration& operator=(const Registration&) = delete;

 private:
  Server& server_;
  SharedMemory& memory_;
};

// Input and output of all requests in shared memory, one after the other.
struct Regions {
  Regions(Server& server, std::size_t input_bytes, std::size_t output_bytes)
      : input("tag-jets-in-" + std::to_string(getpid()), input_bytes),
        output("tag-jets-out-" + std::to_string(getpid()), output_bytes),
        input_known(server, input),
        output_known(server, output) {}
  SharedMemory input, output;
  Registration input_known, output_known;
};

// One tensor of the model, whose rows have a fixed size.
struct TensorShape {
  explicit TensorShape(const inference::ModelMetadataResponse::TensorMetadata& said)
      : name(said.name()), row(said.shape().begin() + (said.shape().empty() ? 0 : 1), said.shape().end()) {
    if (said.datatype() != "FP32" || row.empty()) throw UsageError("tensor " + name + ": expected FP32[-1, ...]");
    for (const auto size : row) {
      if (size < 1) throw UsageError("tensor " + name + ": its rows have no fixed size");
    }
  }
  std::size_t row_values() const {
    return std::accumulate(row.begin(), row.end(), std::size_t{1}, std::multiplies<std::size_t>());
  }
  std::size_t row_bytes() const { return row_values() * sizeof(float); }
  std::string name;
  std::vector<std::int64_t> row;
};

template <typename Tensor>
void lies_in(Tensor* tensor, const SharedMemory& memory, std::size_t offset, std::size_t byte_size) {
  auto& parameters = *tensor->mutable_parameters();
  parameters["shared_memory_region"].set_string_param(memory.name());
  parameters["shared_memory_offset"].set_int64_param(static_cast<std::int64_t>(offset));
  parameters["shared_memory_byte_size"].set_int64_param(static_cast<std::int64_t>(byte_size));
}

inference::ModelInferRequest make_request(const Options& options, const TensorShape& input, const TensorShape& output,
                                          const std::string& rows, std::size_t number, Regions* regions) {
  inference::ModelInferRequest request;
  request.set_model_name(options.model);
  request.set_model_version(options.version);
  request.set_id("jet-" + std::to_string(number));
  auto* tensor = request.add_inputs();
  tensor->set_name(input.name);
  tensor->set_datatype("FP32");
  tensor->add_shape(1);
  for (const auto size : input.row) tensor->add_shape(size);
  auto* wanted = request.add_outputs();
  wanted->set_name(output.name);
  const std::size_t bytes = input.row_bytes();
  if (regions == nullptr) {
    request.add_raw_input_contents(rows.substr(number * bytes, bytes));
  } else {
    std::memcpy(regions->input.data() + number * bytes, rows.data() + number * bytes, bytes);
    lies_in(tensor, regions->input, number * bytes, bytes);
    lies_in(wanted, regions->output, number * output.row_bytes(), output.row_bytes());
  }
  return request;
}

// One request under way.
struct Call {
  grpc::ClientContext context;
  inference::ModelInferResponse response;
  grpc::Status status;
  std::unique_ptr<grpc::ClientAsyncResponseReader<inference::ModelInferResponse>> reader;
};

// Sends one request for each row, all at once, and waits for the answers: the work of an event goes on meanwhile.
std::vector<std::unique_ptr<Call>> infer_all(Server& server, const Options& options, const TensorShape& input,
                                             const TensorShape& output, const std::string& rows, std::size_t count,
                                             Regions* regions) {
  grpc::CompletionQueue queue;
  std::vector<std::unique_ptr<Call>> calls;
  for (std::size_t number = 0; number < count; ++number) {
    calls.push_back(std::make_unique<Call>());
    Call& call = *calls.back();
    server.prepare(call.context, options.deadline);
    call.reader = server.stub().AsyncModelInfer(
        &call.context, make_request(options, input, output, rows, number, regions), &queue);
    call.reader->Finish(&call.response, &call.status, &call);
  }
  void* done = nullptr;
  bool ok = false;
  for (std::size_t ended = 0; ended < count; ++ended) queue.Next(&done, &ok);
  queue.Shutdown();
  while (queue.Next(&done, &ok)) {
  }
  for (const auto& call : calls) {
    if (!call->status.ok()) throw ServerError("inference", call->status);
  }
  return calls;
}

std::vector<float> scores_of(const Call& call, const TensorShape& output, std::size_t number, Regions* regions) {
  const auto& response = call.response;
  if (response.outputs_size() != 1 || response.outputs(0).name() != output.name ||
      response.outputs(0).datatype() != "FP32") {
    throw ServerError("the answer lacks output " + output.name, grpc::Status(grpc::DATA_LOSS, "bad answer"));
  }
  std::vector<float> scores(output.row_values());
  if (regions != nullptr) {
    std::memcpy(scores.data(), regions->output.data() + number * output.row_bytes(), output.row_bytes());
  } else {
    if (response.raw_output_contents_size() != 1 || response.raw_output_contents(0).size() != output.row_bytes()) {
      throw ServerError("output " + output.name + " has another size", grpc::Status(grpc::DATA_LOSS, "bad answer"));
    }
    std::memcpy(scores.data(), response.raw_output_contents(0).data(), output.row_bytes());
  }
  return scores;
}

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (const char character : text) {
    if (character == '"' || character == '\\') {
      out << '\\' << character;
    } else if (static_cast<unsigned char>(character) < 0x20) {
      out << ' ';
    } else {
      out << character;
    }
  }
  out << '"';
  return out.str();
}

template <typename Items, typename Show>
std::string listed(const Items& items, Show show) {
  std::ostringstream out;
  const char* comma = "";
  for (const auto& item : items) {
    out << comma << show(item);
    comma = ", ";
  }
  return out.str();
}

int run(const Options& options) {
  Server server(options);
  if (!server.ask(&GRPCInferenceService::Stub::ServerReady, inference::ServerReadyRequest(), "readiness").ready()) {
    std::cerr << options.server << " is not ready\n";
    return 2;
  }
  inference::RepositoryIndexResponse index;
  try {
    index = server.ask(&GRPCInferenceService::Stub::RepositoryIndex, inference::RepositoryIndexRequest(), "index");
  } catch (const ServerError& error) {  // many servers close it to the public; the model's metadata tell as well
    std::cerr << error.what() << "; going on without it\n";
  }
  const auto metadata = server.ask(&GRPCInferenceService::Stub::ModelMetadata,
                                   server.of_model<inference::ModelMetadataRequest>(), "metadata");
  const auto config = server.ask(&GRPCInferenceService::Stub::ModelConfig,
                                 server.of_model<inference::ModelConfigRequest>(), "configuration");
  if (metadata.inputs_size() != 1 || metadata.outputs_size() != 1) {
    throw UsageError(options.model + ": expected one input and one output");
  }
  const TensorShape input(metadata.inputs(0)), output(metadata.outputs(0));
  const std::string rows((std::istreambuf_iterator<char>(std::cin)), std::istreambuf_iterator<char>());
  if (rows.empty() || rows.size() % input.row_bytes() != 0) {
    throw UsageError("standard input: expected rows of " + std::to_string(input.row_bytes()) + " bytes, got " +
                     std::to_string(rows.size()) + " bytes");
  }
  const std::size_t count = rows.size() / input.row_bytes();

  const Statistics before = read_statistics(server);
  std::optional<Regions> regions;
  if (options.shared_memory) regions.emplace(server, rows.size(), count * output.row_bytes());
  Regions* const shared = regions ? &*regions : nullptr;
  const auto calls = infer_all(server, options, input, output, rows, count, shared);
  const Statistics since = statistics_since(server, before, count);

  std::cout.precision(9);  // enough to read the same float32 back
  std::cout << "{\"index\": ["
            << listed(index.models(),
                      [](const auto& row) {
                        return "{\"name\": " + quoted(row.name()) + ", \"version\": " + quoted(row.version()) +
                               ", \"state\": " + quoted(row.state()) + "}";
                      })
            << "], \"backend\": " << quoted(config.config().backend())
            << ", \"max_batch_size\": " << config.config().max_batch_size()
            << ", \"version\": " << quoted(calls.front()->response.model_version()) << ", \"parameters\": {"
            << listed(calls.front()->response.parameters(),
                      [](const auto& pair) { return quoted(pair.first) + ": " + quoted(pair.second.string_param()); })
            << "}, \"requests\": " << since.requests << ", \"server_ms\": " << 1e-6 * since.success_ns
            << ", \"queue_ms\": " << 1e-6 * since.queue_ns << ", \"infer_ms\": " << 1e-6 * since.infer_ns
            << ", \"scores\": [";
  for (std::size_t number = 0; number < count; ++number) {
    std::ostringstream row;
    row.precision(9);
    row << listed(scores_of(*calls[number], output, number, shared), [](float score) {
      std::ostringstream text;
      text.precision(9);
      text << score;
      return text.str();
    });
    std::cout << (number ? ", [" : "[") << row.str() << "]";
  }
  std::cout << "]}\n";
  return 0;
}

}  // namespace

int main(int count, char** values) {
  try {
    return run(read_options(count, values));
  } catch (const ServerError& error) {
    std::cerr << error.what() << "\n";
    return error.code == grpc::DEADLINE_EXCEEDED ? 3 : 2;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
