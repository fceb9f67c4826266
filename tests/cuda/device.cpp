// A pretended CUDA device for a CPU build of PyTorch: tensors say "cuda:0", and CPU kernels compute them.
//
// Everything above the kernels is PyTorch's own: the dispatcher, autograd with its thread for the device, autocast,
// inference mode, the data loader's pinning, GradScaler, the fused optimiser. What is here takes the place of the
// library torch_cuda: an allocator, a device guard, the hooks by which ATen asks about CUDA, and one kernel for every
// operator. That kernel lends the memory of its arguments to the CPU's kernel, and gives the outcome back as a tensor
// of the device. It refuses what a GPU refuses (tensors of two devices) and reports what a GPU does slowly (waits for
// the device, copies from memory that is not pinned) and what it does at all (launches).
//
// Loaded before torch is imported, since PyTorch asks for the hooks once. See pretended.py.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <string>

namespace {

using at::Tensor;
using c10::Device;
using c10::DeviceType;
using c10::IValue;
const Device kDevice(DeviceType::CUDA, 0);

// ---------------------------------------------------------------------------------------------------- what is reported

using Report = void (*)(const char* kind, const char* name, int64_t bytes);
Report report_ = nullptr;
std::atomic<int64_t> launches{0}, held{0}, most_held{0};

void report(const char* kind, const std::string& name, int64_t bytes = 0) {
  if (report_ != nullptr) report_(kind, name.c_str(), bytes);
}

void hold(int64_t bytes) {
  const int64_t now = held += bytes;
  int64_t most = most_held;
  while (now > most && !most_held.compare_exchange_weak(most, now)) {
  }
}

// ------------------------------------------------------------------------------------------------------------- memory

void* new_block(size_t bytes) {
  void* block = nullptr;
  TORCH_CHECK(posix_memalign(&block, 64, std::max<size_t>(bytes, 1)) == 0, "out of memory");
  return block;
}

// A block of the device: memory of its own, or what a CPU kernel has allocated.
struct Block {
  c10::Storage storage;
  int64_t bytes;
};

void release(void* block) {
  held -= static_cast<Block*>(block)->bytes;
  delete static_cast<Block*>(block);
}

c10::DataPtr taken_over(c10::Storage storage) {
  const int64_t bytes = static_cast<int64_t>(storage.nbytes());
  void* data = storage.mutable_data();
  hold(bytes);
  return {data, new Block{std::move(storage), bytes}, &release, kDevice};
}

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    return taken_over(c10::Storage(c10::Storage::use_byte_size_t(), bytes, c10::GetCPUAllocator(), true));
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} device_allocator;

std::mutex pinned_mutex;
std::map<const char*, size_t> pinned;  // first byte -> bytes

struct PinnedAllocator final : c10::Allocator {
  static void unpin(void* block) {
    {
      std::lock_guard<std::mutex> lock(pinned_mutex);
      pinned.erase(static_cast<const char*>(block));
    }
    std::free(block);
  }
  c10::DataPtr allocate(size_t bytes) override {
    void* block = new_block(bytes);
    std::lock_guard<std::mutex> lock(pinned_mutex);
    pinned[static_cast<const char*>(block)] = std::max<size_t>(bytes, 1);
    return {block, block, &unpin, Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }
  void copy_data(void* to, const void* from, size_t bytes) const override { default_copy_data(to, from, bytes); }
} pinned_allocator;

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> lock(pinned_mutex);
  auto after = pinned.upper_bound(static_cast<const char*>(data));
  if (after == pinned.begin()) return false;
  const auto& [first, bytes] = *std::prev(after);
  return static_cast<const char*>(data) < first + bytes;
}

// ------------------------------------------------------------------------------------------------- guard, hooks, noise

struct Guard final : c10::impl::NoOpDeviceGuardImpl<DeviceType::CUDA> {
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  Device getDevice() const override { return kDevice; }
  Device exchangeDevice(Device) const override { return kDevice; }
  c10::Stream getStream(Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, kDevice); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  void synchronizeStream(const c10::Stream&) const override { report("wait", "synchronize a stream"); }
  void synchronizeEvent(void*) const override { report("wait", "synchronize an event"); }
  void synchronizeDevice(c10::DeviceIndex) const override { report("wait", "synchronize"); }
};

// The device's own random numbers: a generator whose kernels are the CPU's, and whose state is not the CPU's.
at::Generator& device_generator() {
  static at::Generator generator = at::detail::createCPUGenerator();
  return generator;
}

class DeviceNoise {  // within its life the CPU's kernels draw from the device's generator
 public:
  explicit DeviceNoise(bool draws) : lock_(mutex(), std::defer_lock), draws_(draws) {
    if (!draws_) return;
    lock_.lock();
    before_ = cpu_.get_state();
    cpu_.set_state(device_generator().get_state());
  }
  ~DeviceNoise() {
    if (!draws_) return;
    device_generator().set_state(cpu_.get_state());
    cpu_.set_state(before_);
  }

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  std::unique_lock<std::mutex> lock_;
  bool draws_;
  at::Generator cpu_ = at::detail::getDefaultCPUGenerator();
  Tensor before_;
};

}  // namespace

namespace at {
struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  Allocator* getCUDADeviceAllocator() const override { return &device_allocator; }
  const Generator& getDefaultGenerator(DeviceIndex) const override { return device_generator(); }
  Generator getNewGenerator(DeviceIndex) const override { return at::detail::createCPUGenerator(); }
  void deviceSynchronize(DeviceIndex) const override { report("wait", "synchronize"); }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at

namespace {

// ------------------------------------------------------------------------------------------- tensors lent to the CPU

// The same elements as a tensor of the CPU: it shares the memory and owns nothing.
Tensor lent(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  const c10::Storage& own = tensor.storage();
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), own.nbytes(), c10::DataPtr(own.mutable_data(), Device(DeviceType::CPU)),
      c10::GetCPUAllocator(), /*resizable=*/true);
  auto host = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  host.unsafeGetTensorImpl()->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return host;
}

// A CPU kernel's outcome as a tensor of the device: a view of the argument whose memory it shares, or a new one.
Tensor given_back(const Tensor& host, const std::vector<Tensor>& arguments) {
  if (!host.defined()) return host;
  const c10::Storage& storage = host.storage();
  Tensor tensor;
  for (const Tensor& argument : arguments)
    if (argument.is_cuda() && storage.nbytes() > 0 && argument.storage().data() == storage.data())
      tensor = at::detail::make_tensor<c10::TensorImpl>(  // in inference mode, too, no more an inference tensor than it
          c10::TensorImpl::VIEW, c10::Storage(argument.storage()), argument.key_set(), host.dtype());
  if (!tensor.defined())
    tensor = at::detail::make_tensor<c10::TensorImpl>(
        c10::Storage(c10::Storage::use_byte_size_t(), storage.nbytes(), taken_over(storage), &device_allocator, true),
        c10::DispatchKeySet(c10::DispatchKey::CUDA), host.dtype());
  tensor.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
  return tensor;
}

// What a kernel did to an argument that it may change beyond its elements: another shape, and memory for it.
void follow(const Tensor& tensor, const Tensor& host) {
  if (tensor.storage().data() != host.storage().data()) {
    auto* storage = tensor.storage().unsafeGetStorageImpl();
    storage->set_data_ptr_noswap(taken_over(host.storage()));
    storage->set_nbytes(host.storage().nbytes());
  }
  if (tensor.sizes() != host.sizes() || tensor.strides() != host.strides())
    tensor.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides(), host.storage_offset());
}

// ---------------------------------------------------------------------------------------------- one kernel for them all

const std::set<std::string> kWaiting = {
    "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::unique_dim_consecutive", "aten::bincount",
    "aten::repeat_interleave", "aten::multinomial", "aten::histc", "aten::is_set_to"};
const std::set<std::string> kWithoutLaunch = {
    "aten::empty", "aten::empty_strided", "aten::view", "aten::as_strided", "aten::_local_scalar_dense",
    "aten::_reshape_alias", "aten::unfold", "aten::resize_", "aten::set_", "aten::is_set_to"};

bool indexes(const std::string& name) {  // a GPU's kernel moves indices that lie on the host to the device
  return name == "aten::index" || name.rfind("aten::index_put", 0) == 0 || name == "aten::_index_put_impl_";
}

struct Arguments {
  std::vector<Tensor> tensors;  // as they were given
  bool device = false, host = false, mask = false;

  Tensor take(const Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    tensors.push_back(tensor);
    (tensor.is_cuda() ? device : host) |= tensor.is_cuda() || tensor.dim() > 0;  // scalars of the host go everywhere
    return lent(tensor);
  }

  IValue take(const IValue& value) {
    if (value.isTensor()) return take(value.toTensor());
    if (value.isTensorList()) {
      c10::List<Tensor> taken;
      for (const Tensor tensor : value.toTensorList()) taken.push_back(take(tensor));
      return taken;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> taken;
      for (const std::optional<Tensor> tensor : value.toOptionalTensorList()) {
        const bool given = tensor && tensor->defined();
        mask |= given && (tensor->scalar_type() == at::kBool || tensor->scalar_type() == at::kByte);
        taken.push_back(given ? std::optional<Tensor>(take(*tensor)) : std::nullopt);
      }
      return taken;
    }
    if (value.isDevice() && value.toDevice().is_cuda()) {
      device = true;
      return Device(DeviceType::CPU);
    }
    return value;
  }
};

bool writes(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// The argument that is returned: of an operator in place, or one that is given where to write.
std::optional<size_t> returned(const c10::FunctionSchema& schema, const c10::Argument& outcome) {
  if (!writes(outcome)) return std::nullopt;
  for (size_t i = 0; i < schema.arguments().size(); ++i)
    if (writes(schema.arguments()[i]) &&
        schema.arguments()[i].alias_info()->beforeSets() == outcome.alias_info()->beforeSets())
      return i;
  return std::nullopt;
}

void say(const std::string& name, const Arguments& arguments, bool is_view) {
  if (kWaiting.count(name) > 0 || (indexes(name) && arguments.mask)) report("wait", name);
  if (kWithoutLaunch.count(name) == 0 && !is_view) ++launches;
  if (!arguments.host || !arguments.device) return;
  TORCH_CHECK(
      indexes(name) && arguments.tensors.front().is_cuda(),
      "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (", name, ")");
  report("pageable", name + " by an index of the host");
}

void compute(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const size_t count = schema.arguments().size();
  const std::vector<IValue> given(stack->end() - static_cast<int64_t>(count), stack->end());
  Arguments arguments;
  std::vector<IValue> host;
  for (const IValue& value : given) host.push_back(arguments.take(value));
  const bool is_view = !schema.returns().empty() && schema.returns()[0].alias_info() != nullptr &&
      !schema.returns()[0].alias_info()->isWrite();
  say(schema.name(), arguments, is_view);
  torch::jit::drop(*stack, count);
  for (const IValue& value : host) torch::jit::push(*stack, value);
  {
    const DeviceNoise noise(arguments.device && op.hasTag(at::Tag::nondeterministic_seeded));
    op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  }
  for (size_t i = 0; i < count; ++i)
    if (writes(schema.arguments()[i]) && given[i].isTensor() && given[i].toTensor().is_cuda())
      follow(given[i].toTensor(), host[i].toTensor());
  const size_t first = stack->size() - schema.returns().size();
  for (size_t i = 0; i < schema.returns().size(); ++i) {
    IValue& outcome = (*stack)[first + i];
    if (const auto same = returned(schema, schema.returns()[i])) {
      outcome = given[*same];
    } else if (outcome.isTensor()) {
      outcome = given_back(outcome.toTensor(), arguments.tensors);
    } else if (outcome.isTensorList()) {
      c10::List<Tensor> all;
      for (const Tensor tensor : outcome.toTensorList()) all.push_back(given_back(tensor, arguments.tensors));
      outcome = all;
    }
  }
}

// Copies between host and device. PyTorch's own reaches into the library that is not there.
Tensor& copy(Tensor& to, const Tensor& from, bool non_blocking) {
  const auto bytes = static_cast<int64_t>(from.nbytes());
  if (to.is_cuda() && from.is_cuda()) {
    ++launches;
  } else if (to.is_cuda()) {
    const bool is_fast = from.is_pinned();
    report(is_fast ? "pinned" : "pageable", "copy to the device", bytes);
    if (is_fast && !non_blocking) report("wait", "copy to the device");
  } else if (!non_blocking || !to.is_pinned()) {
    report("wait", "copy to the host", bytes);
  }
  Tensor target = lent(to);
  at::AutoDispatchBelowADInplaceOrView below;
  target.copy_(lent(from));
  return to;
}

Tensor& set_storage(
    Tensor& tensor, c10::Storage storage, c10::SymInt offset, c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides) {
  auto* impl = tensor.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  const auto shape = C10_AS_INTARRAYREF_SLOW(sizes);
  auto steps = C10_AS_INTARRAYREF_SLOW(strides).vec();
  if (steps.size() != shape.size()) {
    steps.assign(shape.size(), 1);
    for (size_t i = shape.size(); i-- > 1;) steps[i - 1] = steps[i] * std::max<int64_t>(shape[i], 1);
  }
  impl->set_sizes_and_strides(shape, steps, offset.expect_int());
  return tensor;
}

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  m.impl("copy_", &copy);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

TORCH_LIBRARY(pretended, m) {
  m.def("generator() -> Generator?", [] { return std::optional<at::Generator>(device_generator()); });
}

extern "C" {
void pretend() {
  static Guard guard;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)].store(&guard);
  c10::SetAllocator(DeviceType::CUDA, &device_allocator);
}
void report_to(Report to) { report_ = to; }
int64_t launched() { return launches; }
int64_t bytes_held() { return held; }
int64_t most_bytes_held() { return most_held; }
}
