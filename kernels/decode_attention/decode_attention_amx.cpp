// The row for machines with AMX (Sapphire Rapids and later).
#include "decode_attention_amx.h"

#include "decode_attention_rows.h"

using namespace kn::decode_attention;
extern "C" const kn_row decode_attention_amx = row_of<bf16<amx_engine<from_bf16>, amx_engine<from_s8>>>::row(
    "decode_attention/amx", "amx", KN_CPU_AVX512 | KN_CPU_AVX512BF16 | KN_CPU_AMX);
