// The ranks of a run on libtorch's c10d: they find each other by a store, and exchange bytes by gloo.
// src/ranks/gloo.rs is the Rust side.
#define USE_C10D_GLOO 1
#include "caught.h"

#include <ATen/ops/from_blob.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstdlib>
#include <vector>

namespace {

using Group = c10d::ProcessGroupGloo;

at::Tensor bytes(const void *data, int64_t n) { return at::from_blob(const_cast<void *>(data), {n}, at::kByte); }

// As libtorch declares the collectives that are in every backend.
c10d::Backend &backend(void *group) { return *static_cast<Group *>(group); }

} // namespace

extern "C" {

// Where and how ranks meet; its Rust side is `CMeeting`.
struct dif_sr_meeting {
    const char *file;      // of a FileStore; null for a TCPStore
    const char *host;      // of the TCPStore
    const char *interface; // what to listen on; null for loopback
    int port;
    int listener; // the socket that listens there, which the store takes over; -1 where this rank only connects
    int rank, size, seconds;
};

const char *dif_sr_ranks_join(const dif_sr_meeting *meeting, void **group) {
    return caught([&] {
        // What goes wrong is told as an error, once.
        if (!std::getenv("TORCH_CPP_LOG_LEVEL")) {
            FLAGS_caffe2_log_level = 3;
        }
        const std::chrono::seconds timeout(meeting->seconds);
        c10::intrusive_ptr<c10d::Store> store;
        if (meeting->file) {
            store = c10::make_intrusive<c10d::FileStore>(meeting->file, meeting->size);
        } else {
            c10d::TCPStoreOptions options;
            options.port = static_cast<std::uint16_t>(meeting->port);
            options.isServer = meeting->listener >= 0;
            options.numWorkers = meeting->size;
            options.timeout = timeout;
            if (options.isServer) {
                options.masterListenFd = meeting->listener;
            }
            store = c10::make_intrusive<c10d::TCPStore>(meeting->host, options);
        }
        store->setTimeout(timeout);
        auto options = Group::Options::create(timeout);
        options->devices.push_back(meeting->interface ? Group::createDeviceForInterface(meeting->interface)
                                                      : Group::createDeviceForHostname("127.0.0.1"));
        store = c10::make_intrusive<c10d::PrefixStore>("dif-sr", store);
        *group = c10::make_intrusive<Group>(store, meeting->rank, meeting->size, options).release();
    });
}

void dif_sr_ranks_leave(void *group) { c10::intrusive_ptr<Group>::reclaim(static_cast<Group *>(group)); }

// Every rank's n bytes, one after the other.
const char *dif_sr_ranks_gather(void *group, const void *own, int64_t n, void *all, int64_t size) {
    return caught([&] {
        auto to = bytes(all, n * size), from = bytes(own, n);
        backend(group)._allgather_base(to, from)->wait();
    });
}

// The bytes for this rank of every rank's, one after the other; `sent` and `received` count them by rank.
const char *dif_sr_ranks_exchange(
    void *group, const void *own, const int64_t *sent, void *all, const int64_t *received, int64_t size) {
    return caught([&] {
        std::vector<int64_t> out(sent, sent + size), in(received, received + size);
        int64_t n_out = 0, n_in = 0;
        for (int64_t rank = 0; rank < size; ++rank) {
            n_out += out[rank];
            n_in += in[rank];
        }
        auto to = bytes(all, n_in), from = bytes(own, n_out);
        backend(group).alltoall_base(to, from, in, out)->wait();
    });
}

// Rank 0's n bytes to every rank.
const char *dif_sr_ranks_broadcast(void *group, void *data, int64_t n) {
    return caught([&] {
        std::vector<at::Tensor> tensors = {bytes(data, n)};
        backend(group).broadcast(tensors)->wait();
    });
}
}
