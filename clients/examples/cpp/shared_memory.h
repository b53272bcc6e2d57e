// System shared memory (POSIX), as a Triton server on the same machine maps it.
#pragma once

#include <cstddef>
#include <string>

// A region that this process made. It is removed with the object.
class SharedMemory {
 public:
  // Throws std::system_error when the system gives none.
  SharedMemory(std::string name, std::size_t byte_size);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  const std::string& name() const { return name_; }
  std::string key() const { return "/" + name_; }
  std::size_t byte_size() const { return byte_size_; }
  char* data() { return static_cast<char*>(data_); }

 private:
  std::string name_;
  std::size_t byte_size_;
  void* data_;
};
