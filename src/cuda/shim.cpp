// CUDA graphs and streams of libtorch, for `shim.rs`. This file becomes a library of its own, which is loaded after
// libtorch_cuda.so: what it calls there is not in a libtorch for CPUs, and one program serves both.
#include "../caught.h"

#include <ATen/Context.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/core/Generator.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>

extern "C" {

// A stream beside the one that was current when it was entered.
struct dif_sr_cuda_stream {
    c10::cuda::CUDAStream side, outer;
};

// A graph, and what a capture that fails leaves to be put right.
struct dif_sr_cuda_graph {
    c10::DeviceIndex device;
    c10::MempoolId_t pool;
    at::Generator generator, before;
    at::cuda::CUDAGraph graph;
    bool ended = false; // the graph gives the pool back itself
};

const char *dif_sr_cuda_stream_new(int device, dif_sr_cuda_stream **stream) {
    return caught([&] {
        const auto index = static_cast<c10::DeviceIndex>(device);
        *stream = new dif_sr_cuda_stream{c10::cuda::getStreamFromPool(/*isHighPriority=*/false, index),
                                         c10::cuda::getCurrentCUDAStream(index)};
    });
}

void dif_sr_cuda_stream_free(dif_sr_cuda_stream *stream) { delete stream; }

// Makes the stream current once all that was asked before is done.
const char *dif_sr_cuda_stream_enter(dif_sr_cuda_stream *stream) {
    return caught([&] {
        stream->outer = c10::cuda::getCurrentCUDAStream(stream->side.device_index());
        stream->outer.synchronize();
        c10::cuda::setCurrentCUDAStream(stream->side);
    });
}

// Back, once all that was asked of the stream is done. It is left in any case.
const char *dif_sr_cuda_stream_leave(dif_sr_cuda_stream *stream) {
    return caught([&] {
        c10::cuda::setCurrentCUDAStream(stream->outer);
        stream->side.synchronize();
    });
}

// Ends a capture that failed, wherever it did, and frees it: libtorch's own functions stop at the first error, and would
// leave the generator and the allocators in the middle of a capture.
void dif_sr_cuda_capture_abandon(dif_sr_cuda_graph *graph) {
    if (!caught([&] { graph->graph.capture_end(); })) graph->ended = true;
    caught([&] { c10::cuda::CUDACachingAllocator::endAllocateToPool(graph->device, graph->pool); });
    caught([&] { at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(graph->pool); });
    if (!graph->ended) {
        caught([&] { c10::cuda::CUDACachingAllocator::releasePool(graph->device, graph->pool); });
        caught([&] { at::getHostAllocator(at::kCUDA)->release_pool(graph->pool); });
    }
    caught([&] { graph->generator.graphsafe_set_state(graph->before); });
    static_cast<void>(cudaGetLastError()); // said already
    caught([&] { delete graph; });
}

// Begins to capture what this thread, and autograd's for it, ask of the current stream, which is not the default one.
const char *dif_sr_cuda_capture_begin(int device, dif_sr_cuda_graph **graph) {
    return caught([&] {
        const auto index = static_cast<c10::DeviceIndex>(device);
        const auto generator = at::globalContext().defaultGenerator(at::Device(at::kCUDA, index));
        // The graph itself is kept for the number of its nodes.
        auto made = std::unique_ptr<dif_sr_cuda_graph>(new dif_sr_cuda_graph{
            index, at::cuda::graph_pool_handle(), generator, generator.clone(), at::cuda::CUDAGraph(/*keep_graph=*/true)});
        try {
            made->graph.capture_begin(made->pool, cudaStreamCaptureModeThreadLocal);
        } catch (...) {
            dif_sr_cuda_capture_abandon(made.release());
            throw;
        }
        *graph = made.release();
    });
}

// Ends the capture, counts its nodes, and makes it ready to be replayed.
const char *dif_sr_cuda_capture_end(dif_sr_cuda_graph *graph, size_t *nodes) {
    return caught([&] {
        graph->graph.capture_end();
        graph->ended = true;
        C10_CUDA_CHECK(cudaGraphGetNodes(graph->graph.raw_cuda_graph(), nullptr, nodes));
        graph->graph.instantiate();
    });
}

// Runs the graph on the current stream; the generator goes on as if the graph's operations had been asked for one by one.
const char *dif_sr_cuda_replay(dif_sr_cuda_graph *graph) {
    return caught([&] { graph->graph.replay(); });
}

// No replay may be under way.
void dif_sr_cuda_graph_free(dif_sr_cuda_graph *graph) {
    caught([&] { delete graph; });
}
}
