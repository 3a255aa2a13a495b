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

static inline void __invvpid(unsigned long type, u16 vpid, gva_t address)
{
	shim_invvpid(type, vpid, address);
}

static inline void __invept(unsigned long type, u64 eptp, gpa_t address)
{
	shim_invept(type, eptp);
}

static inline void vpid_sync_vcpu_single(int vpid)
{
	if (vpid)
		__invvpid(VMX_VPID_EXTENT_SINGLE_CONTEXT, vpid, 0);
}

static inline void vpid_sync_vcpu_global(void)
{
	__invvpid(VMX_VPID_EXTENT_ALL_CONTEXT, 0, 0);
}

static inline void vpid_sync_context(int vpid)
{
	if (cpu_has_vmx_invvpid_single())
		vpid_sync_vcpu_single(vpid);
	else if (vpid)
		vpid_sync_vcpu_global();
}

static inline void vpid_sync_vcpu_addr(int vpid, gva_t address)
{
	if (!vpid)
		return;
	if (cpu_has_vmx_invvpid_individual_addr())
		__invvpid(VMX_VPID_EXTENT_INDIVIDUAL_ADDR, vpid, address);
	else
		vpid_sync_context(vpid);
}

static inline void ept_sync_global(void)
{
	__invept(VMX_EPT_EXTENT_GLOBAL, 0, 0);
}

static inline void ept_sync_context(u64 eptp)
{
	if (cpu_has_vmx_invept_context())
		__invept(VMX_EPT_EXTENT_CONTEXT, eptp, 0);
	else
		ept_sync_global();
}

#endif
