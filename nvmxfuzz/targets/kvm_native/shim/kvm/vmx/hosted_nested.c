// SPDX-License-Identifier: GPL-2.0-only
/*
 * nested.c, with ways to its static functions. Each consistency check that fails reports its text
 * and the function that it stands in.
 */
#include <linux/kvm_host.h>
#include <linux/version.h>
#include "../trace.h"
#define trace_kvm_nested_vmenter_failed(text, code) shim_check(text, __func__, __LINE__, code)
#include "nested.c"
#include "nvmx.h"
#include "hosted_l1.h"

/* ------------------------------------------------------------------ the checks */

/* The checks read the cached vmcs12: an image has to lie there. */
static struct vmcs12 *load_image(struct kvm_vcpu *vcpu, const void *image)
{
	struct vmcs12 *vmcs12 = get_vmcs12(vcpu);

	if (!vmcs12)
		shim_stop(NVMX_BUG, "no cached vmcs12: the vCPU is not in VMX operation");
	if (image)
		memcpy(vmcs12, image, sizeof(*vmcs12));
	return vmcs12;
}

NVMX_API int nvmx_check_controls(void *vcpu, const void *image)
{
	return nested_vmx_check_controls(vcpu, load_image(vcpu, image));
}

NVMX_API int nvmx_check_address_space_size(void *vcpu, const void *image)
{
	return nested_vmx_check_address_space_size(vcpu, load_image(vcpu, image));
}

NVMX_API int nvmx_check_host_state(void *vcpu, const void *image)
{
	return nested_vmx_check_host_state(vcpu, load_image(vcpu, image));
}

/* Some checks are of an entry only, not of a restored state. */
static int check_guest_state(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12, u32 *code)
{
	enum vm_entry_failure_code failure = 0;
	int error;

	RUN_PENDING(vcpu) = 1;
	error = nested_vmx_check_guest_state(vcpu, vmcs12, &failure);
	RUN_PENDING(vcpu) = 0;
	*code = failure;
	return error;
}

NVMX_API int nvmx_check_guest_state(void *vcpu, const void *image, u32 *code)
{
	return check_guest_state(vcpu, load_image(vcpu, image), code);
}

/* The stages in the order of nested_vmx_run(). */
static u32 failing_stage(struct kvm_vcpu *vcpu, struct vmcs12 *vmcs12, u32 *code)
{
	*code = 0;
	if (nested_vmx_check_controls(vcpu, vmcs12))
		return 1;
	if (nested_vmx_check_address_space_size(vcpu, vmcs12) ||
	    nested_vmx_check_host_state(vcpu, vmcs12))
		return 2;
	return check_guest_state(vcpu, vmcs12, code) ? 3 : 0;
}

static void first_check(const char **text, const char **where)
{
	*text = nvmx_result.checks ? nvmx_result.check[0].text : NULL;
	*where = nvmx_result.checks ? nvmx_result.check[0].where : NULL;
}

NVMX_API int nvmx_check(void *vcpu, const void *image, struct nvmx_verdict *verdict)
{
	shim_next_case();
	verdict->stage = failing_stage(vcpu, load_image(vcpu, image), &verdict->code);
	first_check(&verdict->text, &verdict->where);
	return verdict->stage;
}

NVMX_API u64 nvmx_check_batch(void *vcpu, const void *images, u64 count,
			      struct nvmx_verdict *verdicts)
{
	const struct vmcs12 *image = images;
	u64 failed = 0, i;

	for (i = 0; i < count; i++)
		failed += nvmx_check(vcpu, &image[i], &verdicts[i]) != 0;
	return failed;
}

/* ------------------------------------------------------------------ a whole entry */

/* Outside VMX operation there is no vmcs12, and the image is not looked at. */
static void before_run(struct kvm_vcpu *vcpu, const void *image)
{
	struct vmcs12 *vmcs12 = get_vmcs12(vcpu);

	shim_next_case();
	if (!vmcs12)
		return;
	memcpy(vmcs12, image, sizeof(*vmcs12));
	vmcs12->vm_instruction_error = 0;
	vmcs12->vm_exit_reason = 0;
	vmcs12->exit_qualification = 0;
	to_vmx(vcpu)->nested.dirty_vmcs12 = true;	/* or the rare fields are skipped */
}

static void after_run(struct kvm_vcpu *vcpu, struct nvmx_ran *ran)
{
	const struct vmcs12 *vmcs12 = get_vmcs12(vcpu);

	ran->in_l2 = is_guest_mode(vcpu);
	ran->rflags = vmx_get_rflags(vcpu);
	ran->rip = kvm_rip_read(vcpu);
	ran->instruction_error = vmcs12 ? vmcs12->vm_instruction_error : 0;
	ran->exit_reason = vmcs12 ? vmcs12->vm_exit_reason : 0;
	ran->exit_qualification = vmcs12 ? vmcs12->exit_qualification : 0;
	ran->requests = vcpu->requests;
	ran->exception = vcpu->arch.exception.pending ?
			 vcpu->arch.exception.vector | 0x100 : 0;
	ran->mp_state = vcpu->arch.mp_state;
	ran->launch_state = vmcs12 ? vmcs12->launch_state : 0;
	ran->exit_to_user = ran->value ? 0 : vcpu->run->exit_reason;
	first_check(&ran->text, &ran->where);
}

NVMX_API int nvmx_run(void *the_vcpu, const void *image, int launch, struct nvmx_ran *ran)
{
	struct kvm_vcpu *vcpu = the_vcpu;

	before_run(vcpu, image);
	vcpu_load(vcpu);
	/* With a shadow VMCS KVM reads back what L1's VMWRITEs left there: all of the image did. */
	if (to_vmx(vcpu)->vmcs01.shadow_vmcs)
		copy_vmcs12_to_shadow(to_vmx(vcpu));
	ran->value = nested_vmx_run(vcpu, launch);
	after_run(vcpu, ran);
	vcpu_put(vcpu);
	return ran->value;
}

NVMX_API int nvmx_run_l2(void *the_vcpu, int file, struct nvmx_ran *ran)
{
	struct kvm_vcpu *vcpu = the_vcpu;

	ran->value = nvmx_ioctl(file, KVM_RUN, 0);
	vcpu_load(vcpu);
	after_run(vcpu, ran);
	vcpu_put(vcpu);
	return ran->value;
}

NVMX_API int nvmx_reset_l1(void *vcpu, const struct nvmx_l1 *l1)
{
	vcpu_load(vcpu);
	reset_l1(vcpu, l1);
	vcpu_put(vcpu);
	return 0;
}

static bool runs_l2(const struct nvmx_ran *ran)
{
	return ran->in_l2 && ran->mp_state == KVM_MP_STATE_RUNNABLE &&
	       !nvmx_result.checks && !nvmx_result.warnings;
}

NVMX_API int nvmx_run_loop(const struct nvmx_loop *loop, const struct nvmx_l1 *l1,
			   const void *image, int launch)
{
	int error;

	nvmx_reset_l1(loop->vcpu, l1);
	/* As the exit left it: KVM has it at hand, and reads it here only if it comes back. */
	nvmx_vmcs_write(nvmx_vmcs(loop->vcpu, 1), GUEST_CR3, l1->cr3);
	/* What KVM says of an L1 that it cannot be in is nothing of what it says of the entry. */
	shim_next_case();
	nvmx_result.warnings = nvmx_result.lines = 0;
	nvmx_run(loop->vcpu, image, launch, loop->ran);
	if (!loop->below || !runs_l2(loop->ran))
		return 0;
	shim_next_case();
	nvmx_set_below(loop->below);
	error = nvmx_run_l2(loop->vcpu, loop->file, loop->ran);
	return error ? error : 1;
}

NVMX_API u64 nvmx_run_batch(void *vcpu, const void *images, u64 count, struct nvmx_ran *ran,
			    const struct nvmx_l1 *l1)
{
	const struct vmcs12 *image = images;
	u64 entered = 0, i;

	for (i = 0; i < count; i++) {
		nvmx_run(vcpu, &image[i], image[i].launch_state == 0, &ran[i]);
		entered += ran[i].in_l2;
		nvmx_reset_l1(vcpu, l1);
	}
	return entered;
}

/* ------------------------------------------------------------------ looking and setting */

NVMX_API int nvmx_vmcs12_size(void)
{
	return sizeof(struct vmcs12);
}

NVMX_API int nvmx_vmcs12_offset(u32 field)
{
	short offset = get_vmcs12_field_offset(field);

	return offset < 0 ? -1 : offset;
}

NVMX_API int nvmx_set_vmx_msr(void *vcpu, u32 index, u64 value)
{
	return vmx_set_vmx_msr(vcpu, index, value);
}

NVMX_API int nvmx_get_vmx_msr(void *vcpu, u32 index, u64 *value)
{
	return vmx_get_vmx_msr(&to_vmx((struct kvm_vcpu *)vcpu)->nested.msrs, index, value);
}

NVMX_API void *nvmx_cached_vmcs12(void *vcpu)
{
	return get_vmcs12(vcpu);
}

NVMX_API int nvmx_is_guest_mode(void *vcpu)
{
	return is_guest_mode(vcpu);
}

NVMX_API u64 nvmx_emulated(void *vcpu)
{
	return ((struct kvm_vcpu *)vcpu)->stat.insn_emulation;
}

NVMX_API int nvmx_emulation_required(void *vcpu)
{
	return to_vmx((struct kvm_vcpu *)vcpu)->emulation_required;
}

NVMX_API void *nvmx_vmcs(void *vcpu, int which)
{
	struct vcpu_vmx *vmx = to_vmx((struct kvm_vcpu *)vcpu);

	switch (which) {
	case 1:
		return vmx->vmcs01.vmcs;
	case 2:
		return vmx->nested.vmcs02.vmcs;
	default:
		return vmx->loaded_vmcs ? vmx->loaded_vmcs->vmcs : NULL;
	}
}
