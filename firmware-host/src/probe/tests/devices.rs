//! Files of real devices, `path = content` a line, with `\n` within a content.
//!
//! Shapes and figures follow listings of an Orin Nano (JetPack 6), an AGX Orin (JetPack 5), a laptop, an
//! EPYC server and a Raspberry Pi 5; only the files that a probe could look at are here.

/// Content of a file that is there and whose reading fails; a folder stands in for it.
pub(super) const FAILS: &str = "(fails)";

/// The zones of the CV units are switched off and answer with errors.
pub(super) const ORIN_NANO: &str = r"
sys/class/thermal/thermal_zone0/type = cpu-thermal
sys/class/thermal/thermal_zone0/temp = 49687
sys/class/thermal/thermal_zone1/type = gpu-thermal
sys/class/thermal/thermal_zone1/temp = 50531
sys/class/thermal/thermal_zone2/type = cv0-thermal
sys/class/thermal/thermal_zone2/temp = (fails)
sys/class/thermal/thermal_zone3/type = cv1-thermal
sys/class/thermal/thermal_zone3/temp = (fails)
sys/class/thermal/thermal_zone4/type = cv2-thermal
sys/class/thermal/thermal_zone4/temp =
sys/class/thermal/thermal_zone5/type = soc0-thermal
sys/class/thermal/thermal_zone5/temp = 50000
sys/class/thermal/thermal_zone6/type = soc1-thermal
sys/class/thermal/thermal_zone6/temp = 50781
sys/class/thermal/thermal_zone7/type = soc2-thermal
sys/class/thermal/thermal_zone7/temp = 49062
sys/class/thermal/thermal_zone8/type = tj-thermal
sys/class/thermal/thermal_zone8/temp = 50812
sys/class/thermal/cooling_device0/type = pwm-fan
sys/class/hwmon/hwmon0/name = pwmfan
sys/class/hwmon/hwmon1/name = ina3221
sys/class/hwmon/hwmon1/in1_label = VDD_IN
sys/class/hwmon/hwmon1/in1_input = 5040
sys/class/hwmon/hwmon1/curr1_input = 968
sys/class/hwmon/hwmon1/in2_label = VDD_CPU_GPU_CV
sys/class/hwmon/hwmon1/in2_input = 5040
sys/class/hwmon/hwmon1/curr2_input = 160
sys/class/hwmon/hwmon1/in3_label = VDD_SOC
sys/class/hwmon/hwmon1/in3_input = 5032
sys/class/hwmon/hwmon1/curr3_input = 288
sys/class/hwmon/hwmon1/in7_label = sum of shunt voltages
sys/class/hwmon/hwmon1/in7_input = 7080
sys/class/hwmon/hwmon1/curr4_input = 1416
sys/devices/system/cpu/online = 0-5
proc/loadavg = 1.50 1.10 0.90 2/512 4711
proc/pressure/cpu = some avg10=3.25 avg60=1.00 avg300=0.40 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0
proc/pressure/memory = some avg10=0.50 avg60=0.10 avg300=0.00 total=98765\nfull avg10=0.40 avg60=0.08 avg300=0.00 total=87654
proc/meminfo = MemTotal:        7802340 kB\nMemFree:         1032560 kB\nMemAvailable:    5210364 kB\nBuffers:           88120 kB
proc/self/cgroup = 0::/system.slice/sapwood.service
sys/fs/cgroup/system.slice/sapwood.service/memory.max = max
sys/fs/cgroup/system.slice/sapwood.service/memory.high = max
sys/fs/cgroup/system.slice/sapwood.service/memory.current = 734003200
";

/// The second monitor has two channels that are not connected; the USB-C port is not what feeds it.
pub(super) const ORIN_AGX: &str = r"
sys/class/thermal/thermal_zone0/type = CPU-therm
sys/class/thermal/thermal_zone0/temp = 77281
sys/class/thermal/thermal_zone1/type = GPU-therm
sys/class/thermal/thermal_zone1/temp = 69125
sys/class/thermal/thermal_zone2/type = CV0-therm
sys/class/thermal/thermal_zone2/temp = -256000
sys/class/thermal/thermal_zone8/type = tj-therm
sys/class/thermal/thermal_zone8/temp = 77281
sys/class/thermal/thermal_zone9/type = Tboard_tegra
sys/class/thermal/thermal_zone9/temp = 62000
sys/class/thermal/thermal_zone10/type = Tdiode_tegra
sys/class/thermal/thermal_zone10/temp = 62250
sys/class/hwmon/hwmon3/name = ina3221
sys/class/hwmon/hwmon3/in1_label = VDD_GPU_SOC
sys/class/hwmon/hwmon3/in1_input = 19208
sys/class/hwmon/hwmon3/curr1_input = 164
sys/class/hwmon/hwmon3/in2_label = VDD_CPU_CV
sys/class/hwmon/hwmon3/in2_input = 19208
sys/class/hwmon/hwmon3/curr2_input = 745
sys/class/hwmon/hwmon3/in3_label = VIN_SYS_5V0
sys/class/hwmon/hwmon3/in3_input = 4968
sys/class/hwmon/hwmon3/curr3_input = 1000
sys/class/hwmon/hwmon4/name = ina3221
sys/class/hwmon/hwmon4/in1_label = NC
sys/class/hwmon/hwmon4/in1_input = (fails)
sys/class/hwmon/hwmon4/in2_label = VDDQ_VDD2_1V8AO
sys/class/hwmon/hwmon4/in2_input = 4960
sys/class/hwmon/hwmon4/curr2_input = 220
sys/class/hwmon/hwmon4/in3_label = NC
sys/class/hwmon/hwmon4/in3_input = (fails)
sys/class/power_supply/ucsi-source-psy-1-00081/type = USB
sys/class/power_supply/ucsi-source-psy-1-00081/online = 0
sys/devices/system/cpu/online = 0-3,8-11
proc/loadavg = 4.00 3.00 2.00 1/900 4711
proc/meminfo = MemTotal:       31262176 kB\nMemAvailable:   26214400 kB
";

/// On its battery, with a mouse that has one too.
pub(super) const LAPTOP: &str = r"
sys/class/thermal/thermal_zone0/type = INT3400 Thermal
sys/class/thermal/thermal_zone0/temp = 20000
sys/class/thermal/thermal_zone1/type = acpitz
sys/class/thermal/thermal_zone1/temp = 27800
sys/class/thermal/thermal_zone2/type = x86_pkg_temp
sys/class/thermal/thermal_zone2/temp = 61000
sys/class/thermal/thermal_zone3/type = iwlwifi_1
sys/class/thermal/thermal_zone3/temp = (fails)
sys/class/hwmon/hwmon4/name = coretemp
sys/class/hwmon/hwmon4/temp1_input = 61000
sys/class/hwmon/hwmon4/temp1_max = 100000
sys/class/hwmon/hwmon4/temp2_input = 63000
sys/class/power_supply/AC/type = Mains
sys/class/power_supply/AC/online = 0
sys/class/power_supply/ucsi-source-psy-USBC000:001/type = USB
sys/class/power_supply/ucsi-source-psy-USBC000:001/online = 0
sys/class/power_supply/BAT0/type = Battery
sys/class/power_supply/BAT0/present = 1
sys/class/power_supply/BAT0/status = Discharging
sys/class/power_supply/BAT0/capacity = 57
sys/class/power_supply/BAT0/power_now = 9420000
sys/class/power_supply/BAT0/energy_now = 29070000
sys/class/power_supply/BAT0/energy_full = 51000000
sys/class/power_supply/hidpp_battery_0/type = Battery
sys/class/power_supply/hidpp_battery_0/scope = Device
sys/class/power_supply/hidpp_battery_0/status = Discharging
sys/class/power_supply/hidpp_battery_0/capacity = 5
sys/class/powercap/intel-rapl:0/name = package-0
sys/class/powercap/intel-rapl:0/energy_uj = 1000000
sys/class/powercap/intel-rapl:0/max_energy_range_uj = 262143328850
sys/class/powercap/intel-rapl:0:0/name = core
sys/class/powercap/intel-rapl:0:0/energy_uj = 900000
sys/class/powercap/intel-rapl:1/name = psys
sys/class/powercap/intel-rapl:1/energy_uj = 5000000
sys/class/powercap/intel-rapl:1/max_energy_range_uj = 262143328850
sys/devices/system/cpu/online = 0-7
proc/loadavg = 0.80 0.90 1.00 1/1200 4711
proc/meminfo = MemTotal:       15990412 kB\nMemAvailable:    8388608 kB
";

/// No thermal zone, and a unit of systemd with limits of memory.
pub(super) const BARE_X86: &str = r"
sys/class/thermal/cooling_device0/type = Processor
sys/class/hwmon/hwmon0/name = nvme
sys/class/hwmon/hwmon0/temp1_input = 91850
sys/class/hwmon/hwmon1/name = k10temp
sys/class/hwmon/hwmon1/temp1_label = Tctl
sys/class/hwmon/hwmon1/temp1_input = 63250
sys/class/hwmon/hwmon1/temp3_label = Tccd1
sys/class/hwmon/hwmon1/temp3_input = 58000
sys/class/powercap/intel-rapl:0/name = package-0
sys/class/powercap/intel-rapl:0/energy_uj = 65532000000
sys/class/powercap/intel-rapl:0/max_energy_range_uj = 65532610987
sys/class/powercap/intel-rapl:0:0/name = core
sys/class/powercap/intel-rapl:0:0/energy_uj = 12
sys/class/powercap/intel-rapl:1/name = package-1
sys/class/powercap/intel-rapl:1/energy_uj = 2000000
sys/class/powercap/intel-rapl:1/max_energy_range_uj = 65532610987
proc/stat = cpu  1 2 3 4\ncpu0 1 2 3 4\ncpu1 1 2 3 4\nintr 99\nctxt 1
proc/loadavg = 1.00 1.00 1.00 1/100 4711
proc/meminfo = MemTotal:       65809412 kB\nMemAvailable:   60000000 kB
proc/self/cgroup = 0::/system.slice/sapwood.service
sys/fs/cgroup/system.slice/sapwood.service/memory.max = 1073741824
sys/fs/cgroup/system.slice/sapwood.service/memory.high = 805306368
sys/fs/cgroup/system.slice/sapwood.service/memory.current = 314572800
sys/fs/cgroup/system.slice/sapwood.service/memory.stat = anon 200000000\nfile 110000000\ninactive_anon 5\nactive_file 5142400\ninactive_file 104857600
sys/fs/cgroup/system.slice/memory.max = max
sys/fs/cgroup/system.slice/memory.current = 999999999
";

/// Without PSI, which its kernel leaves off, and without a controller of memory.
pub(super) const RASPBERRY_PI: &str = r"
sys/class/thermal/thermal_zone0/type = cpu-thermal
sys/class/thermal/thermal_zone0/temp = 48200
sys/class/hwmon/hwmon0/name = cpu_thermal
sys/class/hwmon/hwmon0/temp1_input = 48750
sys/class/hwmon/hwmon1/name = rp1_adc
sys/class/hwmon/hwmon1/in1_input = 1480
sys/class/hwmon/hwmon1/temp1_input = 55000
sys/class/hwmon/hwmon2/name = pwmfan
sys/class/hwmon/hwmon3/name = rpi_volt
sys/class/hwmon/hwmon3/in0_lcrit_alarm = 0
sys/devices/system/cpu/online = 0-3
proc/loadavg = 0.20 0.15 0.10 1/200 4711
proc/meminfo = MemTotal:        8256624 kB\nMemAvailable:    7340032 kB
proc/self/cgroup = 0::/user.slice/user-1000.slice/session-1.scope
";
