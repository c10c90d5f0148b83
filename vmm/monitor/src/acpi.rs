//! ACPI tables of a hardware-reduced machine with one synthetic device
//! (ACPI 6.5, chapter 5; "hardware-reduced" is 3.11.1).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, Interrupt, Memory32Fixed, Name, Package,
    Path, ResourceTemplate, Scope,
};
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace as RegisterSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use addr::Gpa;
use wire::regs;

use crate::config::{Registers, VmConfig};
use crate::hpet;
use crate::layout;
use crate::window::Window;

const OEM: [u8; 6] = *b"MAPWIT";
const OEM_TABLE: [u8; 8] = *b"MAPWITNS";
const OEM_REVISION: u32 = 1;
/// Value that resets the machine when written to the reset register.
pub(crate) const RESET_VALUE: u8 = 1;
/// Sleep type of S5 in the `\_S5` package.
const S5: u8 = 5;
/// Bytes of a page, as a resource has them.
const PAGE_LEN: u32 = 0x1000;
/// What the sleep control register receives for S5: the type in bits 4:2 and
/// `SLP_EN`, bit 5 (ACPI 6.5, table 4.24).
pub(crate) const SLEEP_S5: u8 = (S5 << 2) | (1 << 5);

/// All tables as one block of bytes for [`layout::ACPI`]; the RSDP comes first.
/// `windows` are those of the synthetic device.
pub(crate) fn tables(config: &VmConfig, windows: &[Window]) -> Vec<u8> {
    let mut block = Block::after_rsdp();
    let dsdt = block.push(&bytes_of(&dsdt(config, windows)));
    let fadt = block.push(&bytes_of(&fadt(dsdt)));
    let madt = block.push(&bytes_of(&madt(config.vcpus)));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = block.push(&bytes_of(&xsdt));
    block.finish(&bytes_of(&Rsdp::new(OEM, xsdt)))
}

/// Tables placed one after another, each 16-byte aligned.
struct Block(Vec<u8>);

impl Block {
    fn after_rsdp() -> Self {
        Self(vec![0; Rsdp::len()])
    }

    /// Adds a table and gives its guest physical address.
    fn push(&mut self, table: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(16), 0);
        let address = layout::ACPI + self.0.len() as u64;
        self.0.extend_from_slice(table);
        address
    }

    fn finish(mut self, rsdp: &[u8]) -> Vec<u8> {
        self.0[..rsdp.len()].copy_from_slice(rsdp);
        self.0
    }
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn io_register(port: u16) -> GAS {
    GAS::new(
        RegisterSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(port),
    )
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    table.reset_reg = io_register(layout::RESET_PORT);
    table.reset_value = RESET_VALUE;
    table.sleep_control_reg = io_register(layout::SLEEP_CONTROL_PORT);
    table.sleep_status_reg = io_register(layout::SLEEP_STATUS_PORT);
    table.finalize()
}

fn madt(vcpus: u8) -> MADT {
    let mut table = MADT::new(
        OEM,
        OEM_TABLE,
        OEM_REVISION,
        LocalInterruptController::Address(layout::LOCAL_APIC),
    );
    for id in 0..vcpus {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(vcpus, layout::IO_APIC, 0));
    table
}

fn dsdt(config: &VmConfig, windows: &[Window]) -> Sdt {
    let registers = memory_resource(layout::DEVICE_REGISTERS, regs::REGS_LEN_BYTES, true);
    let memory: Vec<AddressSpace<u64>> = windows.iter().map(window_resource).collect();
    let mut resources: Vec<&dyn Aml> = Vec::new();
    if config.registers != Registers::Absent {
        resources.push(&registers);
    }
    resources.extend(memory.iter().map(|window| window as &dyn Aml));

    let hid = Name::new(Path::new("_HID"), &config.acpi_id);
    let uid = Name::new(Path::new("_UID"), &acpi_tables::aml::ZERO);
    let template = ResourceTemplate::new(resources);
    let crs = Name::new(Path::new("_CRS"), &template);
    let device = Device::new(Path::new("MAPW"), vec![&hid, &uid, &crs]);
    let bus = Scope::new(Path::new("\\_SB_"), vec![&device]);
    let s5_package = Package::new(vec![&S5, &acpi_tables::aml::ZERO]);
    let s5 = Name::new(Path::new("\\_S5_"), &s5_package);

    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&bytes_of(&bus));
    if config.hpet {
        table.append_slice(&event_timer());
    }
    table.append_slice(&bytes_of(&s5));
    table.update_checksum();
    table
}

/// The event timer as a device only: with a table of its own (`HPET`) the kernel
/// itself would take it for a clock, before any driver.
fn event_timer() -> Vec<u8> {
    let hid = Name::new(Path::new("_HID"), &EISAName::new("PNP0103"));
    let page = Memory32Fixed::new(true, layout::HPET, PAGE_LEN);
    let interrupts = hpet::INTERRUPTS.map(|input| {
        let (consumer, edge, active_low, shared) = (true, false, true, true);
        Interrupt::new(consumer, edge, active_low, shared, input)
    });
    let mut resources: Vec<&dyn Aml> = vec![&page];
    resources.extend(interrupts.iter().map(|interrupt| interrupt as &dyn Aml));
    let template = ResourceTemplate::new(resources);
    let crs = Name::new(Path::new("_CRS"), &template);
    let device = Device::new(Path::new("HPET"), vec![&hid, &crs]);
    bytes_of(&Scope::new(Path::new("\\_SB_"), vec![&device]))
}

fn window_resource(window: &Window) -> AddressSpace<u64> {
    memory_resource(
        window.base(),
        window.len_bytes(),
        !window.config().read_only,
    )
}

fn memory_resource(first: Gpa, len_bytes: u64, writable: bool) -> AddressSpace<u64> {
    AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        writable,
        first.raw(),
        first.raw() + (len_bytes - 1),
        None,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vcpus: u8, hpet: bool) -> VmConfig {
        VmConfig {
            vcpus,
            hpet,
            ..VmConfig::new("kernel".into(), "initramfs".into())
        }
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes
            .iter()
            .fold(0, |sum: u8, byte| sum.wrapping_add(*byte))
    }

    fn table_at(block: &[u8], address: u64) -> &[u8] {
        let start = usize::try_from(address - layout::ACPI).expect("inside");
        let length = &block[start + 4..start + 8];
        let length = u32::from_le_bytes(length.try_into().expect("4 bytes"));
        &block[start..start + length as usize]
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
        let block = tables(&config(2, false), &[]);
        assert_eq!(&block[..8], b"RSD PTR ");
        assert_eq!(sum(&block[..Rsdp::len()]), 0);
        let xsdt = table_at(&block, u64_at(&block, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (b"XSDT".as_slice(), 0));
        let fadt = table_at(&block, u64_at(xsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (b"FACP".as_slice(), 0));
        let madt = table_at(&block, u64_at(xsdt, 44));
        assert_eq!((&madt[..4], sum(madt)), (b"APIC".as_slice(), 0));
        // X_DSDT is at byte 140 of the FADT (ACPI 6.5, table 5.9).
        let dsdt = table_at(&block, u64_at(fadt, 140));
        assert_eq!((&dsdt[..4], sum(dsdt)), (b"DSDT".as_slice(), 0));
        assert!(
            dsdt.windows(8)
                .any(|bytes| bytes == regs::ACPI_HID.as_bytes())
        );
    }

    #[test]
    fn a_device_is_called_as_its_driver_wants_it() {
        let foreign = VmConfig {
            acpi_id: "EXMP0001".into(),
            registers: Registers::Absent,
            ..config(1, false)
        };
        let holds = |block: &[u8], id: &str| block.windows(8).any(|it| it == id.as_bytes());
        let (own, other) = (tables(&config(1, false), &[]), tables(&foreign, &[]));
        assert!(holds(&other, "EXMP0001") && !holds(&other, regs::ACPI_HID));
        assert!(other.len() < own.len(), "one resource less");
    }

    #[test]
    fn the_tables_fit_their_area() {
        let room = usize::try_from(layout::HIGH_RAM - layout::ACPI).expect("small");
        assert!(tables(&config(8, true), &[]).len() < room);
    }
}
