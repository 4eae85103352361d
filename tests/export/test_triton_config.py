"""The generated config.pbtxt: the contract, golden, and readable by Triton's own protobuf."""

import pytest
from google.protobuf import text_format
from mcjepa.checkpoint import Card
from mcjepa.config import load_config
from mcjepa.model import MCJEPA
from mcjepa.onnx_export import graphs
from mcjepa.triton_config import model_config, parameters, read_parameters, write_config
from tritonclient.grpc import model_config_pb2

CARD = Card("nano", "1", data="", license="MIT", evaluation="")
SHA = "ab" * 32
GOLDEN_FLOW = f"""\
name: "mcjepa_flow"
max_batch_size: 8
input {{
  name: "frames"
  data_type: TYPE_UINT8
  dims: -1
  dims: -1
  dims: -1
  dims: 3
}}
output {{
  name: "flow"
  data_type: TYPE_FP32
  dims: -1
  dims: 2
  dims: -1
  dims: -1
}}
output {{
  name: "embedding"
  data_type: TYPE_FP32
  dims: -1
  dims: 384
}}
parameters {{
  key: "contract_version"
  value {{
    string_value: "1"
  }}
}}
parameters {{
  key: "embed_image_size"
  value {{
    string_value: "64"
  }}
}}
parameters {{
  key: "embedding_size"
  value {{
    string_value: "384"
  }}
}}
parameters {{
  key: "license"
  value {{
    string_value: "MIT"
  }}
}}
parameters {{
  key: "mean"
  value {{
    string_value: "0.485,0.456,0.406"
  }}
}}
parameters {{
  key: "model_version"
  value {{
    string_value: "nano-1.2.3"
  }}
}}
parameters {{
  key: "std"
  value {{
    string_value: "0.229,0.224,0.225"
  }}
}}
parameters {{
  key: "stride"
  value {{
    string_value: "64"
  }}
}}
parameters {{
  key: "training_summary"
  value {{
    string_value: "trained"
  }}
}}
parameters {{
  key: "weights_sha256"
  value {{
    string_value: "{SHA}"
  }}
}}
backend: "onnxruntime"
"""
GOLDEN_SERVING = """\
instance_group {
  kind: KIND_AUTO
  count: 1
}
dynamic_batching {
  max_queue_delay_microseconds: 2000
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 60000000
    allow_timeout_override: true
    max_queue_size: 128
  }
}
parameters {
  key: "cudnn_conv_algo_search"
  value {
    string_value: "1"
  }
}
parameters {
  key: "enable_mem_pattern"
  value {
    string_value: "0"
  }
}
parameters {
  key: "inter_op_thread_count"
  value {
    string_value: "1"
  }
}
parameters {
  key: "intra_op_thread_count"
  value {
    string_value: "0"
  }
}
model_warmup {
  name: "frames_640x384"
  batch_size: 1
  inputs {
    key: "frames"
    value {
      data_type: TYPE_UINT8
      dims: [ 2, 384, 640, 3 ]
      random_data: true
    }
  }
}
model_warmup {
  name: "frames_1024x448"
  batch_size: 1
  inputs {
    key: "frames"
    value {
      data_type: TYPE_UINT8
      dims: [ 2, 448, 1024, 3 ]
      random_data: true
    }
  }
}
model_warmup {
  name: "frames_1024x576"
  batch_size: 1
  inputs {
    key: "frames"
    value {
      data_type: TYPE_UINT8
      dims: [ 2, 576, 1024, 3 ]
      random_data: true
    }
  }
}
model_warmup {
  name: "frames_576x1024"
  batch_size: 1
  inputs {
    key: "frames"
    value {
      data_type: TYPE_UINT8
      dims: [ 2, 1024, 576, 3 ]
      random_data: true
    }
  }
}
model_warmup {
  name: "frames_640x512"
  batch_size: 1
  inputs {
    key: "frames"
    value {
      data_type: TYPE_UINT8
      dims: [ 2, 512, 640, 3 ]
      random_data: true
    }
  }
}
model_warmup {
  name: "frames_1024x768"
  batch_size: 1
  inputs {
    key: "frames"
    value {
      data_type: TYPE_UINT8
      dims: [ 2, 768, 1024, 3 ]
      random_data: true
    }
  }
}
"""


@pytest.fixture(scope="module")
def messages():
    config = load_config("nano", ["model.content.image_size=64"])
    params = parameters(config, "nano-1.2.3", SHA, "trained", CARD)
    return {graph.name: model_config(graph, config, params) for graph in graphs(MCJEPA(config.model))}


def test_the_flow_model_is_as_written_down(messages):
    text = text_format.MessageToString(messages["mcjepa_flow"])
    assert text_format.Parse(text, model_config_pb2.ModelConfig()) == text_format.Parse(
        GOLDEN_FLOW + GOLDEN_SERVING, model_config_pb2.ModelConfig()
    )


def test_the_bidirectional_model_adds_the_backward_flow_only(messages):
    flow, both = messages["mcjepa_flow"], messages["mcjepa_flow_bidirectional"]
    assert [o.name for o in both.output] == ["flow", "flow_backward", "embedding"]
    assert list(both.output[1].dims) == list(flow.output[0].dims)
    assert both.input == flow.input


def test_the_embedding_model_has_fixed_squares_and_stride_8_features(messages):
    embed = messages["mcjepa_embed"]
    assert list(embed.input[0].dims) == [64, 64, 3]
    shapes = {o.name: list(o.dims) for o in embed.output}
    assert shapes == {"embedding": [384], "features": [64, 8, 8]}


def test_parameters_survive_the_file(messages, tmp_path):
    write_config(tmp_path / "config.pbtxt", messages["mcjepa_embed"])
    params = read_parameters(tmp_path / "config.pbtxt")
    assert params.weights_sha256 == SHA
    assert (params.stride, params.embedding_size, params.embed_image_size) == ("64", "384", "64")
