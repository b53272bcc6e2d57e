#include "shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

SharedMemory::SharedMemory(std::string name, std::size_t byte_size)
    : name_(std::move(name)), byte_size_(byte_size), data_(nullptr) {
  const int file = shm_open(key().c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  if (file < 0) throw std::system_error(errno, std::generic_category(), "cannot make shared memory " + key());
  int error = ftruncate(file, static_cast<off_t>(byte_size)) == 0 ? 0 : errno;
  if (error == 0) {
    data_ = mmap(nullptr, byte_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (data_ == MAP_FAILED) error = errno;
  }
  close(file);
  if (error != 0) {
    shm_unlink(key().c_str());
    throw std::system_error(error, std::generic_category(), "cannot map shared memory " + key());
  }
}

SharedMemory::~SharedMemory() {
  munmap(data_, byte_size_);
  shm_unlink(key().c_str());
}
