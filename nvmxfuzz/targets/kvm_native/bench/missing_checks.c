// SPDX-License-Identifier: GPL-2.0-only
/*
 * The checks that end in VMfail and that KVM leaves to the processor, in software. A kernel that
 * makes these as well needs no dry run. Compiled with KVM's options; the offsets of the fields in
 * struct vmcs12 are given as macros.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

#define USE_TPR_SHADOW (1u << 21)
#define SECONDARY_CONTROLS (1u << 31)
#define VIRTUALIZE_APIC_ACCESSES (1u << 0)
#define VIRTUAL_INTERRUPT_DELIVERY (1u << 9)
#define USE_TSC_SCALING (1u << 25)
#define VTPR 0x80

/* In the order of the rules that they are: see missing.py. */
enum missing { NONE, TPR_THRESHOLD_RESERVED, TPR_THRESHOLD_VTPR, TSC_MULTIPLIER_ZERO };

static u32 read32(const u8 *vmcs12, int offset)
{
	return *(const u32 *)(vmcs12 + offset);
}

static u32 secondary_controls(const u8 *vmcs12)
{
	if (!(read32(vmcs12, CPU_BASED_VM_EXEC_CONTROL) & SECONDARY_CONTROLS))
		return 0;
	return read32(vmcs12, SECONDARY_VM_EXEC_CONTROL);
}

static enum missing check_tpr_threshold(const u8 *vmcs12, u32 secondary, const u8 *virtual_apic)
{
	u32 threshold = read32(vmcs12, TPR_THRESHOLD);

	if (!(read32(vmcs12, CPU_BASED_VM_EXEC_CONTROL) & USE_TPR_SHADOW) ||
	    secondary & VIRTUAL_INTERRUPT_DELIVERY)
		return NONE;
	if (threshold & ~0xfu)
		return TPR_THRESHOLD_RESERVED;
	if (!(secondary & VIRTUALIZE_APIC_ACCESSES) && threshold > virtual_apic[VTPR] >> 4)
		return TPR_THRESHOLD_VTPR;
	return NONE;
}

/* The first one that fails, or 0. `virtual_apic`: the virtual-APIC page, if there is one. */
__attribute__((visibility("default")))
int missing_checks(const u8 *vmcs12, const u8 *virtual_apic)
{
	u32 secondary = secondary_controls(vmcs12);
	enum missing failed = check_tpr_threshold(vmcs12, secondary, virtual_apic);

	if (failed)
		return failed;
	if (secondary & USE_TSC_SCALING && !*(const u64 *)(vmcs12 + TSC_MULTIPLIER))
		return TSC_MULTIPLIER_ZERO;
	return NONE;
}
