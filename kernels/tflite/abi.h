// The part of TensorFlow Lite's C interface that a delegate needs. No package ships the headers, and nothing of the
// runtime is linked: it hands over a context of function pointers. The layout on 64-bit machines is that of
// tensorflow/lite/core/c/common.h, the same in tflite-runtime 2.14 and LiteRT 2.3; what we do not use keeps its place.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

enum TfLiteStatus { kTfLiteOk = 0, kTfLiteError = 1 };
enum TfLiteType { kTfLiteFloat32 = 1, kTfLiteInt32 = 2, kTfLiteInt8 = 9 };
enum TfLiteBuiltinOperator { kTfLiteBuiltinCustom = 32, kTfLiteBuiltinDelegate = 51 };

// A delegate that accepts a graph whose shapes are not all known yet. Without it the runtime prepares every node before
// it asks us, and fails at the custom ones.
enum TfLiteDelegateFlags { kTfLiteDelegateFlagsAllowDynamicTensors = 1 };

struct TfLiteIntArray {
  int size;
  int data[1];  // `size` of them
};

struct TfLiteQuantizationParams {
  float scale;  // 0 unless the whole tensor has one
  int32_t zero_point;
};

struct TfLiteQuantization {
  int type;
  void* params;  // AffineQuantization where type is kAffineQuantization
};
constexpr int kAffineQuantization = 1;

struct FloatArray {
  int size;
  float data[1];  // `size` of them
};

struct AffineQuantization {
  FloatArray* scale;
  TfLiteIntArray* zero_point;
  int32_t quantized_dimension;
};

// TfLiteConvParams and TfLiteDepthwiseConvParams. Padding is 1 for same, 2 for valid; activation 0 for none, 1 for ReLU,
// and the first member of the parameters of sums, differences and products.
struct ConvParams {
  int padding, stride_width, stride_height, activation, dilation_width, dilation_height;
};
struct DepthwiseParams {
  int padding, stride_width, stride_height, depth_multiplier, activation, dilation_width, dilation_height;
};

struct TfLiteContext;
struct TfLiteDelegate;

struct TfLiteTensor {
  int type;  // TfLiteType
  void* data;
  TfLiteIntArray* dims;
  TfLiteQuantizationParams params;
  int allocation_type;
  size_t bytes;
  const void* allocation;
  const char* name;
  TfLiteDelegate* delegate;
  int buffer_handle;
  bool data_is_stale, is_variable;
  TfLiteQuantization quantization;
  void* sparsity;
  const TfLiteIntArray* dims_signature;
};

struct TfLiteNode {
  TfLiteIntArray *inputs, *outputs, *intermediates, *temporaries;  // inputs and outputs index the context's tensors
  void* user_data;                                                 // what init returned
  void* builtin_data;
  const void* custom_initial_data;  // the option bytes of a custom op
  int custom_initial_data_size;
  TfLiteDelegate* delegate;
  bool might_have_side_effect;
};

struct TfLiteRegistration {
  void* (*init)(TfLiteContext*, const char* buffer, size_t length);
  void (*free)(TfLiteContext*, void* user_data);
  TfLiteStatus (*prepare)(TfLiteContext*, TfLiteNode*);
  TfLiteStatus (*invoke)(TfLiteContext*, TfLiteNode*);
  const char* (*profiling_string)(const TfLiteContext*, const TfLiteNode*);
  int32_t builtin_code;  // TfLiteBuiltinOperator
  const char* custom_name;
  int version;
  void* registration_external;
  void* async_kernel;
  uint64_t inplace_operator;
};

// What init gets for the node that stands for the nodes we took.
struct TfLiteDelegateParams {
  TfLiteDelegate* delegate;
  TfLiteIntArray *nodes_to_replace, *input_tensors, *output_tensors;
};

struct TfLiteContext {  // its beginning; the runtime's is longer
  size_t tensors_size;
  TfLiteStatus (*GetExecutionPlan)(TfLiteContext*, TfLiteIntArray**);
  TfLiteTensor* tensors;
  void* impl;
  TfLiteStatus (*ResizeTensor)(TfLiteContext*, TfLiteTensor*, TfLiteIntArray* size);  // frees `size`
  void (*ReportError)(TfLiteContext*, const char* format, ...);
  TfLiteStatus (*AddTensors)(TfLiteContext*, int count, int* first);
  TfLiteStatus (*GetNodeAndRegistration)(TfLiteContext*, int index, TfLiteNode**, TfLiteRegistration**);
  TfLiteStatus (*ReplaceNodeSubsetsWithDelegateKernels)(TfLiteContext*, TfLiteRegistration, const TfLiteIntArray* nodes,
                                                        TfLiteDelegate*);
  int recommended_num_threads;  // -1: not given
};

struct TfLiteDelegate {
  void* data;
  TfLiteStatus (*Prepare)(TfLiteContext*, TfLiteDelegate*);
  TfLiteStatus (*CopyFromBufferHandle)(TfLiteContext*, TfLiteDelegate*, int, TfLiteTensor*);
  TfLiteStatus (*CopyToBufferHandle)(TfLiteContext*, TfLiteDelegate*, int, TfLiteTensor*);
  void (*FreeBufferHandle)(TfLiteContext*, TfLiteDelegate*, int*);
  int64_t flags;  // TfLiteDelegateFlags
  void* opaque_delegate_builder;
};

}  // extern "C"

static_assert(sizeof(void*) == 8, "the layouts above are those of 64-bit machines");
static_assert(offsetof(TfLiteTensor, bytes) == 40 && offsetof(TfLiteTensor, quantization) == 80, "TfLiteTensor");
static_assert(sizeof(TfLiteTensor) == 112 && sizeof(TfLiteNode) == 80, "TfLiteTensor, TfLiteNode");
static_assert(sizeof(TfLiteRegistration) == 88 && sizeof(TfLiteDelegate) == 56, "TfLiteRegistration, TfLiteDelegate");
static_assert(offsetof(TfLiteContext, recommended_num_threads) == 72, "TfLiteContext");
