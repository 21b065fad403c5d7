// Plays an exported policy on one robot with made-up observations: play_policy POLICY.onnx [STEPS]
//
//   g++ -std=c++17 -O2 play_policy.cpp -I$ONNXRUNTIME/include -L$ONNXRUNTIME/lib -lonnxruntime

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

struct Policy {
  Ort::Env env{ORT_LOGGING_LEVEL_WARNING, "policy"};
  Ort::SessionOptions options;
  Ort::Session session{nullptr};
  Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::vector<std::string> inputs, outputs;
  std::map<std::string, std::vector<int64_t>> shapes;
  std::map<std::string, std::vector<float>> values;  // of every input; states begin at zero

  explicit Policy(const char* path) {
    options.SetIntraOpNumThreads(1);
    session = Ort::Session(env, path, options);
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < session.GetInputCount(); ++i) {
      const std::string name = session.GetInputNameAllocated(i, allocator).get();
      auto shape = session.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
      shape[0] = 1;  // one robot
      size_t size = 1;
      for (int64_t each : shape) size *= each;
      inputs.push_back(name), shapes[name] = shape, values[name].assign(size, 0.0f);
    }
    for (size_t i = 0; i < session.GetOutputCount(); ++i)
      outputs.push_back(session.GetOutputNameAllocated(i, allocator).get());
  }

  // Set values["obs"], and with a memory values["reward"] and values["done"], before a step.
  std::vector<float> act() {
    std::vector<const char*> in, out;
    std::vector<Ort::Value> tensors;
    for (const auto& name : inputs) {
      auto& value = values[name];
      auto& shape = shapes[name];
      in.push_back(name.c_str());
      tensors.push_back(Ort::Value::CreateTensor<float>(memory, value.data(), value.size(),
                                                        shape.data(), shape.size()));
    }
    for (const auto& name : outputs) out.push_back(name.c_str());
    auto found = session.Run({}, in.data(), tensors.data(), in.size(), out.data(), out.size());
    std::vector<float> controls;
    for (size_t i = 0; i < out.size(); ++i) {
      const float* data = found[i].GetTensorData<float>();
      const size_t size = found[i].GetTensorTypeAndShapeInfo().GetElementCount();
      if (outputs[i] == "controls") controls.assign(data, data + size);
      if (outputs[i].rfind("next_", 0) == 0) std::copy_n(data, size, values[outputs[i].substr(5)].begin());
    }
    return controls;
  }
};

int main(int argc, char** argv) {
  if (argc < 2) return std::puts("play_policy POLICY.onnx [STEPS]"), 2;
  Policy policy(argv[1]);
  const int steps = argc > 2 ? std::atoi(argv[2]) : 200;
  const auto start = std::chrono::steady_clock::now();
  for (int t = 0; t < steps; ++t) {
    for (size_t i = 0; i < policy.values["obs"].size(); ++i)
      policy.values["obs"][i] = std::sin(0.1f * t + i);
    const auto controls = policy.act();
    for (float each : controls) std::printf("%.6f ", each);
    std::puts("");
  }
  const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
  std::fprintf(stderr, "%.1f us a step\n", time.count() / steps);
}
