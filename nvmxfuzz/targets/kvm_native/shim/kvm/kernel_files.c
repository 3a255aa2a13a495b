// SPDX-License-Identifier: GPL-2.0-only
/*
 * The modules, /dev/kvm and the files that its ioctls make.
 * May lie: files have no inode, no position and one user; RCU's grace period ends with the ioctl.
 */
#include <linux/kvm_host.h>
#include <linux/anon_inodes.h>
#include <linux/miscdevice.h>
#include <linux/moduleparam.h>
#include <linux/version.h>
#include "x86.h"
#include "nvmx.h"

#define FILES 256

void nvmx_wake_task(void);

static struct file *files[FILES];
static struct miscdevice *kvm_device;
static const struct file_operations *vcpu_operations;	/* of what KVM_CREATE_VCPU returned */

/* ------------------------------------------------------------------ the table of files */

static struct file *new_file(const struct file_operations *operations, void *private)
{
	struct file *file = kzalloc(sizeof(*file), GFP_KERNEL);

	file->f_op = operations;
	file->private_data = private;
	return file;
}

int get_unused_fd_flags(unsigned int flags)
{
	int i;

	for (i = 0; i < FILES; i++)
		if (!files[i])
			return i;
	return -EMFILE;
}

void put_unused_fd(unsigned int fd)
{
}

void fd_install(unsigned int fd, struct file *file)
{
	files[fd] = file;
}

void fput(struct file *file)
{
	if (file->f_op->release)
		file->f_op->release(NULL, file);
	kfree(file);
}

struct file *anon_inode_getfile(const char *name, const struct file_operations *operations,
				void *private, int flags)
{
	return new_file(operations, private);
}

struct file *anon_inode_getfile_fmode(const char *name, const struct file_operations *operations,
				      void *private, int flags, fmode_t mode)
{
	return new_file(operations, private);
}

int anon_inode_getfd(const char *name, const struct file_operations *operations, void *private,
		     int flags)
{
	int fd = get_unused_fd_flags(flags);

	if (fd >= 0)
		fd_install(fd, new_file(operations, private));
	return fd;
}

int misc_register(struct miscdevice *device)
{
	kvm_device = device;
	return 0;
}

void misc_deregister(struct miscdevice *device)
{
	kvm_device = NULL;
}

static struct file *file_of(int file)
{
	return file >= 0 && file < FILES ? files[file] : NULL;
}

/* ------------------------------------------------------------------ RCU */

static struct rcu_head *callbacks, **last_callback = &callbacks;

void call_rcu(struct rcu_head *head, rcu_callback_t function)
{
	head->next = NULL;
	head->func = function;
	*last_callback = head;
	last_callback = &head->next;
}

/* A small number in place of the function is the offset of the head in an object to free. */
static void run_callback(struct rcu_head *head)
{
	unsigned long offset = (unsigned long)head->func;

	if (offset < 4096)
		kvfree((char *)head - offset);
	else
		head->func(head);
}

void rcu_barrier(void)
{
	while (callbacks) {
		struct rcu_head *head = callbacks;

		callbacks = head->next;
		if (!callbacks)
			last_callback = &callbacks;
		run_callback(head);
	}
}

/* ------------------------------------------------------------------ ioctls */

NVMX_API int nvmx_open_kvm(void)
{
	if (!kvm_device)
		return -ENODEV;
	return anon_inode_getfd("kvm", kvm_device->fops, NULL, 0);
}

NVMX_API s64 nvmx_ioctl(int number, u32 command, u64 argument)
{
	struct file *file = file_of(number);
	s64 value;

	if (!file)
		return -EBADF;
	if (!file->f_op->unlocked_ioctl)
		return -ENOTTY;
	nvmx_wake_task();
	if (command == KVM_RUN && file->f_op == vcpu_operations)
		shim_run_begins(((struct kvm_vcpu *)file->private_data)->arch.mp_state);
	value = file->f_op->unlocked_ioctl(file, command, argument);
	if (command == KVM_CREATE_VCPU && value >= 0)
		vcpu_operations = files[value]->f_op;
	rcu_barrier();
	return value;
}

NVMX_API int nvmx_close(int number)
{
	struct file *file = file_of(number);

	if (!file)
		return -EBADF;
	files[number] = NULL;
	fput(file);
	rcu_barrier();
	return 0;
}

NVMX_API void *nvmx_vcpu(int number)
{
	struct file *file = file_of(number);

	return file && file->f_op == vcpu_operations ? file->private_data : NULL;
}

NVMX_API void *nvmx_kvm_run(void *vcpu)
{
	return ((struct kvm_vcpu *)vcpu)->run;
}

NVMX_API void *nvmx_guest_ram(u64 bytes)
{
	return shim_alloc_mapping(bytes);
}

NVMX_API int nvmx_check_heap(void)
{
	shim_check_heap();
	return 0;
}

/* ------------------------------------------------------------------ modules */

void radix_tree_init(void);
int init_module(void);
void cleanup_module(void);
int vmx_init_module(void);
void vmx_cleanup_module(void);

/* Once, as at boot. */
unsigned long zero_pfn;

static void boot(void)
{
	static bool done;

	if (!done) {
		radix_tree_init();
		zero_pfn = page_to_pfn(alloc_page(GFP_KERNEL | __GFP_ZERO));
	}
	done = true;
}

NVMX_API int nvmx_insmod(void)
{
	int error;

	boot();
	error = init_module();
	if (error)
		return error;
	error = vmx_init_module();
	if (error)
		cleanup_module();
	return error;
}

NVMX_API int nvmx_rmmod(void)
{
	if (!list_empty(&vm_list))	/* its file would hold the module */
		return -EBUSY;
	vmx_cleanup_module();
	cleanup_module();
	rcu_barrier();
	return 0;
}

NVMX_API int nvmx_kernel_version(void)
{
	return LINUX_VERSION_CODE;
}

extern const struct kernel_param __start___param[], __stop___param[];
const struct kernel_param_ops param_ops_bool, param_ops_int, param_ops_uint, param_ops_bint;

NVMX_API const char *nvmx_parameter(int number, void **address, int *kind)
{
	const struct kernel_param *parameter = __start___param + number;

	if (number < 0 || parameter >= __stop___param)
		return NULL;
	*address = parameter->arg;
	if (parameter->ops == &param_ops_bool)
		*kind = 1;
	else if (parameter->ops == &param_ops_int || parameter->ops == &param_ops_bint)
		*kind = 2;
	else
		*kind = parameter->ops == &param_ops_uint ? 3 : 4;
	return parameter->name;
}

/* ------------------------------------------------------------------ planted faults */

static int divide_by(int divisor)
{
	return 100 / divisor;
}

void nvmx_selftest_kernel(unsigned int plant)
{
	volatile int zero = 0;
	u64 nowhere;

	switch (plant) {
	case NVMX_PLANT_WARN:
		WARN_ON(!zero);
		break;
	case NVMX_PLANT_WARN_ONCE:
		WARN_ONCE(!zero, "planted %d\n", 1);
		break;
	case NVMX_PLANT_PRINTK:
		pr_warn("planted %04x %s %-3d|%lu %px\n", 0xab, "text", 7, 5ul, &zero);
		break;
	case NVMX_PLANT_BUG:
		BUG_ON(!zero);
		break;
	case NVMX_PLANT_DIVIDE:
		zero = divide_by(zero);
		break;
	case NVMX_PLANT_USER_FAULT:
		if (!copy_from_user(&nowhere, (void __user *)(0x1000 + zero), sizeof(nowhere)))
			shim_stop(NVMX_BUG, "a copy from nowhere succeeded");
		break;
	}
}
