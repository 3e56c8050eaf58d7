//! Matrix products at the shapes of a small Llama: `cargo bench`.

#![allow(missing_docs, reason = "criterion makes a public function")]

use candle_core::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use llmbs::ops::{self, Precision};

fn products(c: &mut Criterion) {
    for (tokens, inner, out) in [(4096, 256, 688), (1024, 576, 1536)] {
        let values = |n: usize| (0..n).map(|i| (i % 7) as f32 - 3.0).collect::<Vec<f32>>();
        let x = Tensor::from_vec(values(tokens * inner), (tokens, inner), &Device::Cpu);
        let w = Tensor::from_vec(values(out * inner), (out, inner), &Device::Cpu);
        let (Ok(x), Ok(w)) = (x, w) else { panic!("the shapes fit the values") };
        let mut group = c.benchmark_group(format!("linear {tokens} x {inner} x {out}"));
        group.throughput(Throughput::Elements((2 * tokens * inner * out) as u64));
        for precision in [Precision::Full, Precision::Bf16] {
            group.bench_function(format!("{precision:?}"), |b| {
                b.iter(|| ops::linear(&x, &w, precision));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
