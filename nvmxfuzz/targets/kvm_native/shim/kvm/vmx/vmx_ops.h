/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * In place of the kernel's header of the same name: VMX instructions become calls of the runtime.
 * May lie: no VMX instruction ever fails here, so the kernel's error paths for them never run, and
 * a field that the processor lacks reads as 0.
 */
#ifndef __KVM_X86_VMX_INSN_H
#define __KVM_X86_VMX_INSN_H

#include <linux/nospec.h>
#include <asm/vmx.h>
#if __has_include("vmx_onhyperv.h")
#include "vmx_onhyperv.h"
#else
#include "evmcs.h"
#endif
#include "vmcs.h"
#include "../x86.h"
#include "capabilities.h"

#define __vmcs_readl(field) shim_vmread(field)
#define __vmcs_writel(field, value) shim_vmwrite(field, value)

static __always_inline u16 vmcs_read16(unsigned long field)
{
	return shim_vmread(field);
}

static __always_inline u32 vmcs_read32(unsigned long field)
{
	return shim_vmread(field);
}

static __always_inline u64 vmcs_read64(unsigned long field)
{
	return shim_vmread(field);
}

static __always_inline unsigned long vmcs_readl(unsigned long field)
{
	return shim_vmread(field);
}

static __always_inline void vmcs_write16(unsigned long field, u16 value)
{
	shim_vmwrite(field, value);
}

static __always_inline void vmcs_write32(unsigned long field, u32 value)
{
	shim_vmwrite(field, value);
}

static __always_inline void vmcs_write64(unsigned long field, u64 value)
{
	shim_vmwrite(field, value);
}

static __always_inline void vmcs_writel(unsigned long field, unsigned long value)
{
	shim_vmwrite(field, value);
}

static __always_inline void vmcs_clear_bits(unsigned long field, u32 mask)
{
	shim_vmwrite(field, (u32)shim_vmread(field) & ~mask);
}

static __always_inline void vmcs_set_bits(unsigned long field, u32 mask)
{
	shim_vmwrite(field, (u32)shim_vmread(field) | mask);
}

static inline void vmcs_clear(struct vmcs *vmcs)
{
	shim_vmclear(__pa(vmcs));
}

static inline void vmcs_load(struct vmcs *vmcs)
{
	shim_vmptrld(__pa(vmcs));
}

/* May lie: the extent is not chosen. Nothing is cached here: each of these is one step. */
#define FLUSH(name, ...) static inline void name(__VA_ARGS__) { shim_step(); }

FLUSH(vpid_sync_vcpu_single, int vpid)
FLUSH(vpid_sync_vcpu_global, void)
FLUSH(vpid_sync_context, int vpid)
FLUSH(vpid_sync_vcpu_addr, int vpid, gva_t address)
FLUSH(ept_sync_global, void)
FLUSH(ept_sync_context, u64 eptp)

#undef FLUSH

#endif
