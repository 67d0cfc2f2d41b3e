// How C++ tells Rust of an error: a function that can fail returns a message when it does, which stays until the thread's next.
#pragma once
#include <exception>
#include <string>

template <typename F> const char *caught(F f) {
    static thread_local std::string message;
    try {
        f();
        return nullptr;
    } catch (const std::exception &e) {
        message = e.what();
        return message.c_str();
    }
}
