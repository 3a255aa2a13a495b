// SPDX-License-Identifier: GPL-2.0-only
/* vmx.c, with ways to its static functions. */
#include <linux/kvm_host.h>
#include <asm/desc.h>
/* The host's IDT is nowhere: of an external interrupt or NMI nobody is told. */
#define gate_offset(gate) 0ul
#include "vmx.c"
#include <linux/version.h>
#include "nvmx.h"

#define SINCE(major, minor) (LINUX_VERSION_CODE >= KERNEL_VERSION(major, minor, 0))

#if IS_ENABLED(CONFIG_HYPERV)
/* Hyper-V as it presents itself to a guest; KVM asks for the page of each processor. */
struct ms_hyperv_info ms_hyperv;
static struct hv_vp_assist_page assist_page;
static struct hv_vp_assist_page *assist_pages[1] = { &assist_page };
struct hv_vp_assist_page **hv_vp_assist_page;

NVMX_API int nvmx_set_hyperv_evmcs(int on)
{
	ms_hyperv.hints = on ? HV_X64_ENLIGHTENED_VMCS_RECOMMENDED : 0;
	ms_hyperv.nested_features = on ? KVM_EVMCS_VERSION : 0;
	hv_vp_assist_page = on ? assist_pages : NULL;
	enlightened_vmcs = on;
	return 0;
}
#else
NVMX_API int nvmx_set_hyperv_evmcs(int on)
{
	return -1;
}
#endif

/* Whether the enlightened VMCS is used is decided before, as when the module is loaded. */
static void decide_evmcs(void)
{
#if IS_ENABLED(CONFIG_HYPERV) && SINCE(6, 3)
	hv_init_evmcs();
#endif
}

static u64 basic_of(const struct vmcs_config *config)
{
#if SINCE(6, 12)
	return config->basic;
#else
	return (u64)(config->basic_cap | config->size) << 32 | config->revision_id;
#endif
}

NVMX_API int nvmx_setup_vmcs_config(struct nvmx_config *out)
{
	static struct vmcs_config config;
	static struct vmx_capability capability;

	decide_evmcs();
	memset(&config, 0, sizeof(config));
	memset(&capability, 0, sizeof(capability));
	out->error = setup_vmcs_config(&config, &capability);
	out->pin_based_exec_ctrl = config.pin_based_exec_ctrl;
	out->cpu_based_exec_ctrl = config.cpu_based_exec_ctrl;
	out->cpu_based_2nd_exec_ctrl = config.cpu_based_2nd_exec_ctrl;
	out->cpu_based_3rd_exec_ctrl = config.cpu_based_3rd_exec_ctrl;
	out->vmexit_ctrl = config.vmexit_ctrl;
	out->vmentry_ctrl = config.vmentry_ctrl;
	out->ept = capability.ept;
	out->vpid = capability.vpid;
	out->basic = basic_of(&config);
	out->misc = config.misc;
	return out->error;
}
