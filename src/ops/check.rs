//! Checks shared by the tests of all operations.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Shape, Tensor, Var};

use super::force_composed;
use crate::rng;

/// Standard normal values, f64.
pub(super) fn random(shape: impl Into<Shape>, seed: u64) -> Tensor {
    let shape = shape.into();
    let mut stream = rng::stream(seed, "check", &[]);
    let values = rng::normal(&mut stream, shape.elem_count(), 1.0);
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap()
}

pub(super) fn values(t: &Tensor) -> Vec<f64> {
    t.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// `t` with the type of `other` and on its device.
pub(super) fn beside(t: &Tensor, other: &Tensor) -> Result<Tensor> {
    let t = t.to_dtype(other.dtype())?;
    // CUDA has no tensor without elements.
    if t.elem_count() == 0 { Ok(t) } else { t.to_device(other.device()) }
}

/// The weighted sum that stands for a loss; the weights are random, so that no gradient cancels.
fn loss(output: &Tensor) -> Tensor {
    let weights = beside(&random(output.shape(), 99), output).unwrap();
    (output * weights).unwrap().sum_all().unwrap()
}

struct Pass {
    output: Tensor,
    grads: Vec<Tensor>,
}

fn pass(inputs: &[Tensor], dtype: DType, f: impl Fn(&[Tensor]) -> Result<Tensor>) -> Pass {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|t| Var::from_tensor(&t.to_dtype(dtype).unwrap().copy().unwrap()).unwrap())
        .collect();
    let tensors: Vec<Tensor> = vars.iter().map(|v| v.as_tensor().clone()).collect();
    let output = f(&tensors).unwrap();
    let store = loss(&output).backward().unwrap();
    let grads = tensors
        .iter()
        .enumerate()
        .map(|(i, t)| store.get(t).unwrap_or_else(|| panic!("input {i} got no gradient")).clone())
        .collect();
    Pass { output, grads }
}

fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    for (i, (a, b)) in values(a).iter().zip(values(b)).enumerate() {
        let close = (a - b).abs() <= tolerance * b.abs().max(1.0);
        assert!(close, "{what}, element {i}: {a} and {b}");
    }
}

/// Holds the fused path equal to the composed one, the gradients equal to central differences, and frozen
/// inputs free of gradients.
pub(super) fn check(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    fused_equals_composed(inputs, &f);
    finite_differences(inputs, &f);
    frozen_inputs(inputs, &f);
}

/// Holds the two paths equal in value and gradients, in f64 and f32.
pub(super) fn fused_equals_composed(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
        let fused = pass(inputs, dtype, &f);
        let composed = {
            let _guard = force_composed();
            pass(inputs, dtype, &f)
        };
        assert_same(&fused, &composed, dtype, tolerance);
        // On a machine with a GPU: the same there.
        if let Some(device) = other_device() {
            let there: Vec<Tensor> = inputs.iter().map(|t| t.to_device(&device).unwrap()).collect();
            assert_same(&pass(&there, dtype, &f), &composed, dtype, tolerance.max(1e-10));
        }
    }
}

/// Holds the two paths equal in value where nothing is trained, in f64 and f32.
pub(super) fn untrained(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
        let on = |device: &Device| {
            let inputs = inputs.iter().map(|t| t.to_dtype(dtype)?.to_device(device));
            f(&inputs.collect::<Result<Vec<_>>>().unwrap()).unwrap()
        };
        let fused = on(&Device::Cpu);
        let composed = {
            let _guard = force_composed();
            on(&Device::Cpu)
        };
        assert_close("output", &fused, &composed, tolerance);
        if let Some(device) = other_device() {
            assert_close("output there", &on(&device), &composed, tolerance.max(1e-10));
        }
    }
}

fn assert_same(a: &Pass, b: &Pass, dtype: DType, tolerance: f64) {
    assert_close("output", &a.output, &b.output, tolerance);
    for (i, (a, b)) in a.grads.iter().zip(&b.grads).enumerate() {
        assert_close(&format!("{dtype:?} gradient of input {i}"), a, b, tolerance);
    }
}

/// The device that `LLMBS_TEST_DEVICE=cuda` asks the checks for, beside the CPU.
fn other_device() -> Option<Device> {
    match std::env::var("LLMBS_TEST_DEVICE").as_deref() {
        Ok("cuda") => Some(Device::new_cuda(0).unwrap()),
        Ok(other) => panic!("LLMBS_TEST_DEVICE={other}: only cuda is known"),
        Err(_) => None,
    }
}

/// Central differences (h 1e-5) on about 40 elements of every input.
pub(super) fn finite_differences(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    const H: f64 = 1e-5;
    let grads = pass(inputs, DType::F64, &f).grads;
    for (i, input) in inputs.iter().enumerate() {
        let (start, grad) = (values(input), values(&grads[i]));
        for e in (0..start.len()).step_by(start.len().div_ceil(40)) {
            let at = |shift: f64| {
                let mut moved = start.clone();
                moved[e] += shift;
                let mut inputs = inputs.to_vec();
                inputs[i] = Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap();
                loss(&f(&inputs).unwrap()).to_scalar::<f64>().unwrap()
            };
            let slope = (at(H) - at(-H)) / (2.0 * H);
            assert!(
                (slope - grad[e]).abs() <= 1e-6 * grad[e].abs().max(0.1),
                "input {i}, element {e}: gradient {}, finite difference {slope}",
                grad[e]
            );
        }
    }
}

/// With one input trained at a time, the others get no gradient.
fn frozen_inputs(inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    for trained in 0..inputs.len() {
        let mut tensors = inputs.to_vec();
        let var = Var::from_tensor(&inputs[trained].copy().unwrap()).unwrap();
        tensors[trained] = var.as_tensor().clone();
        let store: GradStore = loss(&f(&tensors).unwrap()).backward().unwrap();
        for (i, t) in tensors.iter().enumerate() {
            assert_eq!(store.get(t).is_some(), i == trained, "gradient of input {i}");
        }
    }
}

/// Output and gradients in f32 have the same bits on one, two and three threads.
pub(super) fn same_on_any_threads(
    inputs: &[Tensor],
    f: impl Fn(&[Tensor]) -> Result<Tensor> + Sync,
) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let pass = pool.install(|| pass(inputs, DType::F32, &f));
        let mut bits = values(&pass.output);
        pass.grads.iter().for_each(|g| bits.extend(values(g)));
        bits
    };
    let one = on(1);
    assert!(one == on(2) && one == on(3));
}
