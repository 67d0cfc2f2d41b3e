// What libtorch's header of its gloo process group names of gloo, whose own headers libtorch does not ship. Nothing here is
// called or laid out by this program but through pointers that libtorch makes and takes back; `build.rs` puts this file in the
// place of gloo's headers.
#pragma once
#include <torch/headeronly/version.h>
#if TORCH_VERSION_MAJOR != 2 || TORCH_VERSION_MINOR != 11
#error "these declarations were held to libtorch 2.11: hold them to the ProcessGroupGloo.hpp of this one, and run tests/ranks"
#endif
#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace gloo {

class Context {
public:
    void setTimeout(std::chrono::milliseconds);
};

namespace transport {
class Device;
class UnboundBuffer {
public:
    virtual ~UnboundBuffer();
};
} // namespace transport

namespace rendezvous {
class Store {
public:
    virtual ~Store();
    virtual void set(const std::string &, const std::vector<char> &) = 0;
    virtual std::vector<char> get(const std::string &) = 0;
    virtual void wait(const std::vector<std::string> &) = 0;
    virtual void wait(const std::vector<std::string> &, const std::chrono::milliseconds &) = 0;
};
} // namespace rendezvous

} // namespace gloo
