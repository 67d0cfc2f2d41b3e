//! The kernel of attention's rows compiles for GPUs, which takes none: NVRTC, the compiler that a program calls, makes code
//! of the text that `tests/golden.rs` and `tests/properties/lean.rs` run on the CPU.
//!
//! `DIF_SR_NVRTC` names the library, such as `libnvrtc.so.13` of the wheel `nvidia-cuda-nvrtc`. Where it names none, the test
//! says that it is left out.

mod common;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::Write;

use libloading::Library;

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// What a kernel is compiled for.
#[derive(Debug)]
struct Form {
    number: &'static str,
    keys: usize,
    streams: usize,
    fusion: &'static str,
}

/// The PTX of the kernels, or what the compiler says of them.
fn compiled(nvrtc: &Library, form: &Form) -> Result<String, String> {
    let Form { number, keys, streams, fusion } = form;
    let defines = format!("NUMBER={number} KEYS={keys} STREAMS={streams} FUSION=dif_sr::{fusion}");
    let options = ["--gpu-architecture=compute_90".to_owned(), "--std=c++17".to_owned()];
    let options = options.into_iter().chain(defines.split(' ').map(|define| format!("-D{define}")));
    let options: Vec<CString> = options.map(|option| CString::new(option).expect("no zeros")).collect();
    let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let path = common::root().join("src/fast/cuda/rows.h");
    let source = CString::new(std::fs::read(path).expect("it is part of the repository")).expect("no zeros");
    let none = std::ptr::null();
    // SAFETY: the signatures are NVRTC's; what is passed outlives the calls, and texts get the room that was asked for.
    unsafe {
        let of_log = (nvrtc.get::<Size>(b"nvrtcGetProgramLogSize"), nvrtc.get::<Text>(b"nvrtcGetProgramLog"));
        let of_ptx = (nvrtc.get::<Size>(b"nvrtcGetPTXSize"), nvrtc.get::<Text>(b"nvrtcGetPTX"));
        let create = nvrtc.get::<Create>(b"nvrtcCreateProgram").expect("a function of NVRTC");
        let compile = nvrtc.get::<Compile>(b"nvrtcCompileProgram").expect("a function of NVRTC");
        let mut program = std::ptr::null_mut();
        assert_eq!(create(&mut program, source.as_ptr(), c"rows.cu".as_ptr(), 0, none, none), 0);
        let failed = compile(program, options.len() as c_int, options.as_ptr()) != 0;
        let (size, text) = if failed { of_log } else { of_ptx };
        let (size, text) = (size.expect("a function of NVRTC"), text.expect("a function of NVRTC"));
        let mut bytes = 0;
        assert_eq!(size(program, &mut bytes), 0);
        let mut buffer = vec![0_u8; bytes + 1];
        assert_eq!(text(program, buffer.as_mut_ptr().cast()), 0);
        let text = CStr::from_bytes_until_nul(&buffer).expect("it ends").to_string_lossy().into_owned();
        if failed { Err(text) } else { Ok(text) }
    }
}

#[test]
fn the_kernel_of_rows_compiles_for_gpus_under_every_fusion() {
    let Some(path) = std::env::var_os("DIF_SR_NVRTC") else {
        // Past the test harness, which shows what is printed for failures only.
        std::io::stderr().write_all(b"left out: DIF_SR_NVRTC names no libnvrtc.so\n").expect("standard error is open");
        return;
    };
    // SAFETY: NVRTC's own initialisers.
    let nvrtc = unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for fusion in ["SUM", "CONCAT", "GATE"] {
        for (number, keys, streams) in [("float", 7, 3), ("double", 7, 2), ("float", 50, 4)] {
            let form = Form { number, keys, streams, fusion };
            let ptx = compiled(&nvrtc, &form).unwrap_or_else(|log| panic!("{form:?}: {log}"));
            assert!(ptx.contains(".entry rows_forward") && ptx.contains(".entry rows_backward"), "{form:?}");
            if (number, keys, fusion) == ("float", 7, "SUM") {
                assert!(!ptx.contains(".local"), "the scores of a short row are registers");
            }
        }
    }
    let wrong = Form { number: "float", keys: 7, streams: 3, fusion: "NONE" };
    let log = compiled(&nvrtc, &wrong).expect_err("there is no such fusion");
    assert!(log.contains("NONE"), "{log}");
}
